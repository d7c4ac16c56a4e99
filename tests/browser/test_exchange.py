"""One exchange in a real browser: what is marked, struck, shown to the self-teacher, decided, traced, done about it."""

import re
from pathlib import Path

import pytest
from fastapi import FastAPI, Request
from playwright.sync_api import Browser, expect

from services.inspector.http.views import ExchangeView
from services.inspector.store.filters import ExchangeFilter
from services.inspector.store.sealed import SealedBatches
from shared.contracts.batches import BatchGroup
from shared.contracts.heartbeats import Heartbeat
from shared.http.access import AccessKeys, Scope
from tests.browser.chromium import Viewer, viewer
from tests.browser.stand import Stand, new_stand
from tests.fakes.listening import listening
from tests.fakes.traces import write_trace
from tests.unit.inspector.told import feedback, ready, revised, seal


def one_of(stand: Stand, **wanted: str) -> ExchangeView:
    return stand.store.newest_exchanges(ExchangeFilter(**wanted), before=None, limit=1)[0]


def test_everything_around_a_delivered_feedback(reader: Viewer, recorded: Stand) -> None:
    exchange = one_of(recorded, verdict="match", change="fixed")
    page = reader.open(f"/feedback/{exchange.id}")
    assert page.locator("mark").first.inner_text().casefold() == exchange.word
    expect(page.locator("section", has=page.get_by_role("heading", name="Delivered"))).to_contain_text(
        exchange.delivered or "nothing"
    )
    teacher = page.locator("section", has=page.get_by_role("heading", name="What the self-teacher saw"))
    expect(teacher).to_contain_text(exchange.question)
    expect(teacher).to_contain_text(exchange.delivered or "nothing")
    again = page.locator("section", has=page.get_by_role("heading", name="answered again"))
    expect(again).to_contain_text("turned a wrong answer right")
    gate = page.locator("section", has=page.get_by_role("heading", name="might speak"))
    expect(gate.get_by_role("row")).to_have_count(3)
    expect(gate).to_contain_text("always")
    later = page.locator("section", has=page.get_by_role("heading", name="version by version"))
    expect(later.locator("tr.here")).to_contain_text(f"{exchange.version}")


def test_a_group_has_all_rollouts_with_their_feedback_and_revisions(reader: Viewer, recorded: Stand) -> None:
    exchange = one_of(recorded, verdict="match", change="fixed")
    page = reader.open(f"/feedback/{exchange.id}?verdict=match")
    page.get_by_role("link", name="beside the others").click()
    answers = page.locator(".answer")
    drawn = {sample.text for sample in batch_of(recorded, exchange).samples}
    expect(answers).to_have_count(len(drawn))
    assert set(answers.locator(".text:nth-child(2)").all_text_contents()) == drawn
    mine = answers.filter(has=page.get_by_role("link", name=str(exchange.sample), exact=True)).first
    expect(mine).to_contain_text(exchange.delivered or "nothing")
    expect(mine).to_contain_text("answered again right")
    page.keyboard.press("j")
    expect(page).not_to_have_url(re.compile(f"/feedback/{exchange.id}/"))
    expect(page).to_have_url(re.compile(r"/group\?verdict=match$"))
    expect(page.locator(".verdict.delivered").first).to_be_visible()


def batch_of(stand: Stand, exchange: ExchangeView) -> BatchGroup:
    run = stand.config.environment
    return SealedBatches(run.run_dir, run.run).group(exchange.student, exchange.step, exchange.problem_id)


def test_a_second_answer_that_is_the_first_again_is_said_to_be(watcher: Viewer, live: Stand) -> None:
    told = feedback()
    live.tell(told, revised(change="same").model_copy(update={"text": told.response}))
    page = watcher.open("/feedback/1")
    again = page.locator("section", has=page.get_by_role("heading", name="answered again"))
    expect(again).to_contain_text("Word by word the same answer as before.")
    expect(again.locator("ins, del")).to_have_count(0)


def test_what_was_dropped_says_why(reader: Viewer, recorded: Stand) -> None:
    page = reader.open(f"/feedback/{one_of(recorded, verdict='no_match').id}")
    expect(page.get_by_text("Dropped: the concept does not occur in the problem.")).to_be_visible()
    expect(page.locator("mark")).to_have_count(0)


def test_a_reveal_is_struck_through_in_the_raw_text(watcher: Viewer, live: Stand) -> None:
    raw = " <concept>force</concept> Check the units. The correct answer is B. Then try again."
    live.tell(feedback(raw=raw, delivered="Check the units. Then try again.", removed=("The correct answer is B.",)))
    page = watcher.open("/feedback/1")
    said = page.locator("section", has=page.get_by_role("heading", name="b said"))
    expect(said.locator(".text")).to_have_text(raw.strip())
    struck = said.locator(".text del")
    assert [text.strip() for text in struck.all_inner_texts()] == [
        "<concept>force</concept>",
        "The correct answer is B.",
    ]
    expect(said.locator(".reasons")).to_contain_text("gives the answer away")
    assert "line-through" in struck.last.evaluate("node => getComputedStyle(node).textDecorationLine")
    live.tell(feedback("p2"))
    page = watcher.open("/?redacted=true")
    expect(page.locator("#rows .row")).to_have_count(1)
    told = page.get_by_text("redacted", exact=True)
    expect(told.last).to_have_attribute("title", "Taken out: The correct answer is B.")


def test_the_heat_map_tells_the_alternatives_of_both(watcher: Viewer, live: Stand) -> None:
    live.tell(feedback())
    seal(live.config.environment.run_dir)
    live.tell(ready())
    write_trace(live.config.environment.run_dir)
    page = watcher.open("/feedback/1")
    tokens = page.locator(".heat .token")
    assert tokens.all_inner_texts() == ["The", " force"]
    expect(tokens.first).to_have_class("token heat-4")
    expect(page.locator("#token-detail")).to_be_empty()
    tokens.first.hover()
    for part in ("0.3000", "90.5 %", "13.5 %", "<b>", "10.0 %"):
        expect(page.locator("#token-detail")).to_contain_text(part)
    tokens.last.focus()
    expect(page.locator("#token-detail")).to_contain_text(" force")
    page.get_by_role("link", name="self-teacher log-prob").click()
    expect(tokens.first).to_have_class("token heat-3")
    expect(tokens.first).to_have_attribute("title", "2.000 nats")
    expect(page.locator(".colours [aria-current]")).to_have_text("self-teacher log-prob")
    page.get_by_role("link", name="importance weight").click()
    expect(tokens.first).to_have_class("token heat-0")
    page.get_by_role("link", name="entropy", exact=True).click()
    expect(tokens.first).to_have_class("token heat-4")
    expect(tokens.first).to_have_attribute("title", "1.250 nats")
    expect(page.locator(".heat-key")).to_contain_text("Entropy in nats")
    tokens.first.hover()
    expect(page.locator("#token-detail")).to_contain_text("1.250")


def test_arrows_lead_on_but_where_they_scroll_or_select(browser: Browser, live: Stand) -> None:
    live.tell(feedback("p0"), feedback("p1"))
    write_trace(live.config.environment.run_dir)
    with viewer(browser, live.url, viewport={"width": 375, "height": 800}) as opened:
        page = opened.open("/feedback/2")
        page.get_by_text("All tokens as a table").click()
        table = page.locator(".token-table .scroll")
        table.locator("td").first.click()
        page.keyboard.press("ArrowRight")
        page.wait_for_function("() => document.querySelector('.token-table .scroll').scrollLeft > 0")
        page.get_by_role("heading", level=1).click()
        page.keyboard.press("Shift+ArrowRight")
        expect(page).to_have_url(f"{live.url}/feedback/2")
        page.keyboard.press("ArrowRight")
        expect(page).to_have_url(f"{live.url}/feedback/1")
        assert opened.faults == []


def test_a_trace_without_entropy_is_shown_with_the_rest(watcher: Viewer, live: Stand) -> None:
    live.tell(feedback())
    path = write_trace(live.config.environment.run_dir)
    path.write_text(path.read_text().replace(',"student_entropy":1.25', ""))
    page = watcher.open("/feedback/1?colour=entropy")
    expect(page.locator(".heat .token").first).to_have_class("token heat-4")
    expect(page.locator(".colours")).to_contain_text("this trace has no entropy")
    expect(page.locator(".colours [aria-current]")).to_have_text("divergence")
    expect(page.get_by_role("link", name="entropy", exact=True)).to_have_count(0)


def test_without_a_trace_the_reason_is_told(reader: Viewer, recorded: Stand) -> None:
    page = reader.open(f"/feedback/{one_of(recorded).id}")
    expect(page.get_by_text("The step has no traces")).to_be_visible()


def test_nobody_is_silenced_in_a_run_that_is_over(reader: Viewer, recorded: Stand) -> None:
    page = reader.open(f"/feedback/{one_of(recorded).id}")
    expect(page.get_by_role("button", name="Flag")).to_be_enabled()
    expect(page.get_by_role("button", name="Silence")).to_be_disabled()


@pytest.mark.parametrize(
    ("act", "path", "about"),
    [
        ("Flag", "/v1/feedback/a.s1.p1.0/flag", {}),
        ("Silence b for a this round", "/v1/runs/r1/silence", {"tutor": "b", "student": "a"}),
    ],
)
def test_acts_are_passed_on_to_the_broker(
    browser: Browser, tmp_path: Path, act: str, path: str, about: dict[str, str]
) -> None:
    taken: list[tuple[str, str, dict[str, str]]] = []
    broker = FastAPI()

    @broker.post("/{rest:path}", status_code=202)
    async def take(rest: str, request: Request) -> dict[str, str]:
        taken.append((f"/{rest}", request.headers["authorization"], await request.json()))
        return {"accepted": "0" * 32}

    keys = AccessKeys({"r": Scope.READ, "adm": Scope.ADMIN})
    with new_stand(tmp_path, keys=keys) as stand, stand.serving(), listening(broker) as broker_url:
        stand.log.up = [Heartbeat(service="broker", replica="0", state="ready", url=broker_url, at=0.0)]
        stand.tell(feedback())
        with viewer(browser, stand.url) as opened:
            page = opened.open("/feedback/1")
            page.get_by_label("Key").fill("adm")
            page.get_by_role("button", name="Log in").click()
            page.get_by_label("Reason").fill("gives it <b>away</b>")
            page.get_by_role("button", name=act).click()
            expect(page.get_by_role("status")).to_contain_text("The broker was asked to")
            assert opened.faults == []
    [(asked, authorization, body)] = taken
    assert (asked, authorization) == (path, "Bearer adm")
    assert body == {"reason": "gives it <b>away</b>", **about}


def test_who_may_only_read_is_offered_no_acts(browser: Browser, tmp_path: Path) -> None:
    with new_stand(tmp_path, keys=AccessKeys({"r": Scope.READ})) as stand, stand.serving():
        stand.tell(feedback())
        with viewer(browser, stand.url) as opened:
            page = opened.open("/feedback/1")
            page.get_by_label("Key").fill("r")
            page.get_by_role("button", name="Log in").click()
            expect(page.get_by_role("heading", name="What people did")).to_be_visible()
            expect(page.get_by_role("button", name="Flag")).to_have_count(0)
