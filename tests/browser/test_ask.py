"""Asking the peers on the page: stage by stage with JavaScript, all at once without, and what the broker refuses."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from playwright.sync_api import Browser, Page, expect

from shared.contracts.heartbeats import Heartbeat
from shared.contracts.http import Advised, Answered, AnsweredAgain, Stage
from shared.http.access import AccessKeys, Scope
from shared.http.guard import error_response
from shared.http.sse import EVENT_STREAM, frame
from tests.browser.chromium import Viewer, viewer
from tests.browser.stand import Stand, new_stand
from tests.fakes.listening import listening
from tests.fakes.student_server import USAGE
from tests.unit.inspector.told import feedback, revised

HOSTILE = "<img src=x onerror=alert(1)>\n\nevent: done"
STAGES: list[Stage] = [
    Answered(student="b", version="b@v7", text=f" 3 + 4 = 7 {HOSTILE}", usage=USAGE),
    Advised(
        exchange=1,
        student="a",
        version="a@v9",
        raw="<concept>voltage</concept> Multiply.",
        concept="voltage",
        verdict="match:voltage",
        delivered="Multiply.",
        usage=USAGE,
    ),
    AnsweredAgain(exchange=1, student="b", version="b@v7", text=" 3 * 4 = 12", usage=USAGE),
]


WITHOUT_WHAT_IS_GONE = """pre => {
  const copy = pre.cloneNode(true);
  copy.querySelectorAll("del").forEach((gone) => gone.remove());
  return copy.textContent;
}"""


class Peers:
    """A broker that tells its stages one at a time, as `more` lets it. asked: (key, question)."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.more = threading.Semaphore(0)

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.post("/v1/peers/ask", response_model=None)
        async def ask(request: Request) -> StreamingResponse | JSONResponse:
            body = await request.json()
            self.asked.append((request.headers["authorization"], body))
            if body["problem"] == "busy":
                return error_response(503, "student b is not up", "unavailable_error")
            return StreamingResponse(self._frames(), media_type=EVENT_STREAM)

        return app

    def _frames(self) -> Iterator[bytes]:
        for stage in STAGES:
            assert self.more.acquire(timeout=30)
            yield frame(stage, event=stage.stage)


@contextmanager
def asking(tmp_path: Path, peers: Peers) -> Iterator[Stand]:
    keys = AccessKeys({"r": Scope.READ, "ask-key": Scope.ASK})
    with new_stand(tmp_path, keys=keys) as stand, stand.serving(), listening(peers.app()) as broker_url:
        stand.log.up = [Heartbeat(service="broker", replica="0", state="ready", url=broker_url, at=0.0)]
        yield stand


def log_in(page: Page, key: str) -> None:
    page.get_by_label("Key").fill(key)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", name="Ask the peers")).to_be_visible()


def put(page: Page, problem: str) -> None:
    page.get_by_label("Problem").fill(problem)
    page.get_by_label("Who answers").select_option("b")
    page.get_by_role("button", name="Ask").click()


def test_stages_come_as_they_are_there(browser: Browser, tmp_path: Path) -> None:
    peers = Peers()
    with asking(tmp_path, peers) as stand, viewer(browser, stand.url) as opened:
        page = opened.open("/ask")
        log_in(page, "ask-key")
        put(page, "3 A through 4 ohm. What voltage?")
        expect(page.get_by_text("They are thinking…")).to_be_visible()
        stages = page.locator("#stages > li")
        for number, said in enumerate((HOSTILE, "Multiply.", "3 * 4 = 12"), start=1):
            peers.more.release()
            expect(stages).to_have_count(number)
            assert said in stages.nth(number - 1).locator("pre").first.evaluate(WITHOUT_WHAT_IS_GONE)
        expect(stages.nth(1)).to_contain_text("match voltage")
        stages.nth(1).get_by_text("As it was said").click()
        expect(stages.nth(1).get_by_text("<concept>voltage</concept> Multiply.")).to_be_visible()
        expect(page.get_by_text("They are thinking…")).to_be_hidden()
        expect(page.get_by_role("button", name="Ask")).to_be_enabled()
        put(page, "busy")
        expect(page.get_by_role("alert")).to_have_text("student b is not up")
        expect(stages).to_have_count(1)
        assert opened.faults == []
    assert peers.asked[0] == (
        "Bearer ask-key",
        {"problem": "3 A through 4 ohm. What voltage?", "first": "b"},
    )


def test_what_was_asked_is_kept_in_the_browser_as_text_until_it_is_forgotten(browser: Browser, tmp_path: Path) -> None:
    peers = Peers()
    peers.more.release(len(STAGES))
    with asking(tmp_path, peers) as stand, viewer(browser, stand.url) as opened:
        page = opened.open("/ask")
        log_in(page, "ask-key")
        asked = page.locator("#asked")
        expect(asked).to_be_hidden()
        question = f"{HOSTILE} {'磁' * 19_000}"
        put(page, question)
        expect(asked.locator("summary")).to_have_text(question)
        page.reload()
        expect(page.locator("#stages > li")).to_have_count(0)
        asked.locator("summary").click()
        expect(asked.locator("pre")).to_have_count(3)
        assert HOSTILE in asked.locator("pre").first.inner_text()
        assert "3 * 4 = 12" in asked.locator("pre").last.inner_text()
        asked.get_by_role("button", name="Ask again").click()
        expect(page.get_by_label("Problem")).to_have_value(question)
        page.get_by_role("button", name="Forget").click()
        page.reload()
        expect(asked).to_be_hidden()
        assert opened.faults == []


def test_an_empty_page_offers_problems_of_the_run(watcher: Viewer, live: Stand) -> None:
    live.tell(feedback("p1"), feedback("p2", question="A lever of 2 m and 3 N?"), revised("p1"))
    page = watcher.open("/ask")
    examples = page.get_by_role("region", name="Problems of this run").get_by_role("link")
    assert examples.all_inner_texts() == ["A lever of 2 m and 3 N?", "What force moves 2 kg at 3 m/s2?"]
    examples.first.click()
    expect(page.get_by_label("Problem")).to_have_value("A lever of 2 m and 3 N?")
    expect(examples).to_have_count(0)


def test_new_words_of_the_second_answer_are_marked(browser: Browser, tmp_path: Path) -> None:
    peers = Peers()
    peers.more.release(len(STAGES))
    with asking(tmp_path, peers) as stand, viewer(browser, stand.url, java_script_enabled=False) as opened:
        page = opened.open("/ask")
        log_in(page, "ask-key")
        put(page, "3 A through 4 ohm. What voltage?")
        again = page.locator("#stages > li").last
        expect(again.locator("ins").filter(has_text="12")).to_have_count(1)
        expect(again).to_contain_text("No new word of it is in the feedback.")


def test_without_javascript_all_comes_at_once(browser: Browser, tmp_path: Path) -> None:
    peers = Peers()
    peers.more.release(len(STAGES))
    with asking(tmp_path, peers) as stand, viewer(browser, stand.url, java_script_enabled=False) as opened:
        page = opened.open("/ask")
        log_in(page, "ask-key")
        put(page, "3 A through 4 ohm. What voltage?")
        expect(page.locator("#stages > li")).to_have_count(3)
        expect(page.get_by_label("Problem")).to_have_value("3 A through 4 ohm. What voltage?")


def test_who_may_only_read_cannot_ask(browser: Browser, tmp_path: Path) -> None:
    peers = Peers()
    with asking(tmp_path, peers) as stand, viewer(browser, stand.url) as opened:
        page = opened.open("/ask")
        log_in(page, "r")
        expect(page.get_by_role("alert")).to_contain_text("may only read")
        expect(page.get_by_role("button", name="Ask")).to_be_disabled()
    assert peers.asked == []
