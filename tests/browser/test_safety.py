"""What models and strangers write never becomes more than text, and no other site comes in on a reader's session."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse
from playwright.sync_api import Browser, Page, expect

from shared.contracts.acting import ExchangeAct, ExchangeRef
from shared.contracts.events import Acted, AlarmRaised, JobLost, StatusChanged
from shared.contracts.traces import Alternative, RolloutTrace
from shared.http.access import AccessKeys, Scope
from tests.browser.chromium import Viewer, viewer
from tests.browser.stand import Stand, new_stand
from tests.fakes.listening import listening
from tests.fakes.traces import trace_token, write_trace
from tests.unit.inspector.told import feedback, revised

CORPUS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)><animate onbegin=alert(1) attributeName=x>",
    "\"><iframe srcdoc='<script>parent.alert(1)</script>'></iframe>",
    "' autofocus onfocus=alert(1) x='",
    "</div></li></ol><base href=https://evil.invalid/><form action=//evil.invalid><button>Log in</button></form>",
    "<link rel=stylesheet href=https://evil.invalid/x.css><style>@import 'https://evil.invalid/y.css';</style>",
    "<a href='javascript:alert(1)'>click</a> <meta http-equiv=refresh content='0;url=https://evil.invalid'>",
    '<p hx-get="https://evil.invalid" hx-trigger="load" hx-on:load="alert(1)">hx</p>',
    '<div data-hx-get="//evil.invalid" data-hx-trigger="load"></div><hx-partial hx-target="body">x</hx-partial>',
    "{{ 7 * 7 }}{% raw %}${7*7}<%= 7 %>",
    '<!--<img src="--><img src=x onerror=alert(1)//">',
    "<math><mtext></table><mglyph><style><img src=x onerror=alert(1)>",
    "\u202e<\u200bscript>alert(1)</script>\u2028data: <img src=x onerror=alert(1)>",
    "\n\nevent: status\ndata: <img src=x onerror=alert(1)>\r\rid: 9.9\r\n\r\ndata: x",
    "&lt;img src=x onerror=alert(1)&gt;",
]


TEXTS = ("response", "question", "raw", "delivered", "domain")


def attack(stand: Stand) -> None:
    """Each text in every place that comes from outside."""
    for number, text in enumerate(CORPUS):
        problem = f"{text}{number}"[:200]
        hostile: dict[str, Any] = dict.fromkeys(TEXTS, text)
        stand.tell(
            feedback(problem, **hostile, verdict=f"match:{text}"),
            revised(problem).model_copy(update={"text": text}),
            JobLost(at=1.0, source="x", job_id=text, student=text, reason=text),
            StatusChanged(at=1.0, source="x", status=text, round=1, reason=text),
            AlarmRaised(at=1.0, source="x", student=text, alarm="reward_collapse", round=1, step=1, reason=text),
            Acted(at=1.0, source="x", round=1, act=flag(number, problem, text), refused=None),
        )


def flag(number: int, problem: str, text: str) -> ExchangeAct:
    exchange = ExchangeRef(student="a", step=1, problem_id=problem, sample=0)
    return ExchangeAct(id=f"{number:032x}", act="flag", exchange=exchange, by=text, reason=text)


def nothing_ran(page: Page) -> None:
    """No element came out of a text: none that loads, none that htmx would process, none outside the templates."""
    made = "script:not([src]), iframe, img, base, style, object, embed, [onerror], [onload], [onfocus], [autofocus]"
    assert page.locator(made).count() == 0
    assert page.locator("main [hx-get]:not(form.filters), [data-hx-get], a[href^='javascript']").count() == 0


def test_f22_hostile_texts_arrive_as_text_in_rows_that_come_live(watcher: Viewer, live: Stand) -> None:
    page = watcher.open()
    expect(page.locator("#told")).to_have_attribute("data-state", "live")
    attack(live)
    expect(page.locator("#rows .row")).to_have_count(len(CORPUS))
    expect(page.locator("#rows .row .outcome.fixed")).to_have_count(len(CORPUS))
    nothing_ran(page)
    texts = page.locator("#rows .said").all_text_contents()
    assert [plain(text) for text in texts] == [plain(text) for text in reversed(CORPUS)]


def test_f22_hostile_texts_arrive_as_text_on_every_page(watcher: Viewer, live: Stand) -> None:
    attack(live)
    page = watcher.open()
    expect(page.locator("#rows .row")).to_have_count(len(CORPUS))
    nothing_ran(page)
    for number, text in enumerate(CORPUS, start=1):
        write_hostile_trace(live, number, text)
        page = watcher.open(f"/feedback/{1 + (number - 1)}")
        nothing_ran(page)
        assert plain(text) in {plain(found) for found in page.locator(".text").all_text_contents()}
        page = watcher.open(f"/feedback/{number}/group")
        nothing_ran(page)
        assert plain(text) in {plain(found) for found in page.locator(".text").all_text_contents()}
    page = watcher.open("/run")
    expect(page.locator(".history li").first).to_be_visible()
    nothing_ran(page)
    page = watcher.open("/")
    page.get_by_label("Search").fill("<script>alert(1)</script>")
    expect(page.locator("#rows .row").first).to_be_visible()
    nothing_ran(page)
    page = watcher.open("/?q=%22%3E%3Cscript%3Ealert(1)%3C/script%3E&problem_id=%22onfocus=alert(1)%20autofocus=%22")
    nothing_ran(page)


def plain(text: str) -> str:
    """Line breaks of every kind are one, as in HTML."""
    return text.replace("\r\n", "\n").replace("\r", "\n").strip()


def write_hostile_trace(stand: Stand, number: int, text: str) -> None:
    top = (Alternative(text=text, probability=0.5),)
    token = trace_token(text).model_copy(update={"student_top": top, "teacher_top": top})
    rollout = RolloutTrace(problem_id=f"{text}{number - 1}"[:200], sample=0, all_tokens=1, tokens=(token,))
    write_trace(stand.config.environment.run_dir, rollouts=(rollout,))


def test_every_answer_forbids_scripts_of_others_and_frames(watcher: Viewer, live: Stand) -> None:
    live.tell(feedback())
    for path in (
        "/",
        "/feedback/1",
        "/run",
        "/ask",
        "/login",
        "/nowhere",
        "/static/page.css",
        "/v1/feedback",
        "/livez",
    ):
        headers = watcher.context.request.get(live.url + path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "same-origin")


@pytest.fixture
def keyed(tmp_path: Path) -> Iterator[Stand]:
    with new_stand(tmp_path, keys=AccessKeys({"r-key": Scope.READ, "adm-key": Scope.ADMIN})) as stand, stand.serving():
        stand.tell(feedback())
        yield stand


def test_a_key_is_shown_once_and_stays_out_of_the_page(browser: Browser, keyed: Stand) -> None:
    with viewer(browser, keyed.url) as opened:
        page = opened.open("/feedback/1?domain=physics")
        expect(page).to_have_url(f"{keyed.url}/login?next=%2Ffeedback%2F1%3Fdomain%3Dphysics")
        page.get_by_label("Key").fill("wrong")
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("alert")).to_contain_text("not one of the run's")
        opened.faults.clear()  # Chromium notes the 403
        page.get_by_label("Key").fill("r-key")
        page.get_by_role("button", name="Log in").click()
        expect(page).to_have_url(f"{keyed.url}/feedback/1?domain=physics")
        [cookie] = opened.context.cookies()
        assert (cookie.get("httpOnly"), cookie.get("sameSite")) == (True, "Strict")
        assert "r-key" not in str(cookie)
        assert page.evaluate("document.cookie") == ""
        page.get_by_role("button", name="Log out").click()
        opened.open("/run")
        expect(page).to_have_url(f"{keyed.url}/login?next=%2Frun")
        assert opened.faults == []


def test_a_login_link_works_once(browser: Browser, keyed: Stand) -> None:
    with viewer(browser, keyed.url) as opened:
        headers = {"Authorization": "Bearer adm-key", "Content-Length": "0"}
        path = opened.context.request.post(f"{keyed.url}/v1/login-link", headers=headers).json()["path"]
        page = opened.open(path)
        expect(page).to_have_url(f"{keyed.url}/")
        expect(page.locator("#rows .row")).to_have_count(1)
    with viewer(browser, keyed.url) as other:
        expect(other.open(path).get_by_role("alert")).to_contain_text("was used already")


def test_another_site_cannot_act_or_log_in_with_a_readers_browser(browser: Browser, keyed: Stand) -> None:
    elsewhere = FastAPI()

    @elsewhere.get("/")
    def lure() -> HTMLResponse:
        return HTMLResponse(
            f"<form method=post action='{keyed.url}/feedback/1/act'><input name=act value=flag>"
            "<input name=reason value=x><button>act</button></form>"
            f"<form method=post action='{keyed.url}/login'><input name=key value=adm-key><button>login</button></form>"
        )

    with listening(elsewhere) as lure_url, viewer(browser, keyed.url) as opened:
        page = opened.open("/login")
        page.get_by_label("Key").fill("adm-key")
        page.get_by_role("button", name="Log in").click()
        for button in ("act", "login"):
            page.goto(lure_url)
            with page.expect_response(f"{keyed.url}/**") as answer:
                page.get_by_role("button", name=button).click()
            assert answer.value.status == 403


def test_a_reader_comes_in_through_a_proxy_that_changes_host(browser: Browser, keyed: Stand) -> None:
    proxy = FastAPI()

    @proxy.api_route("/{path:path}", methods=["GET", "POST"])
    async def forward(request: Request, path: str) -> Response:
        headers = dict(request.headers) | {"host": "upstream:8000"}
        async with httpx2.AsyncClient(base_url=keyed.url, trust_env=False) as client:
            answer = await client.request(
                request.method, f"/{path}?{request.url.query}", content=await request.body(), headers=headers
            )
        return Response(answer.content, answer.status_code, dict(answer.headers))

    with listening(proxy) as url, viewer(browser, url) as opened:
        page = opened.open("/run")
        page.get_by_label("Key").fill("r-key")
        page.get_by_role("button", name="Log in").click()
        expect(page).to_have_url(f"{url}/run")
        page.get_by_role("button", name="Log out").click()
        expect(page).to_have_url(f"{url}/login")
