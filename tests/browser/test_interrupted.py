"""Open pages whose session ends, or whose questions are answered with an error, in a real browser."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from shared.http.access import AccessKeys, Scope
from tests.browser.chromium import Viewer, viewer
from tests.browser.stand import Stand, new_stand
from tests.browser.test_feed import expect_live
from tests.unit.inspector.told import feedback

TOO_LARGE = str(2**63)
PHYSICS = "/?domain=physics"


@pytest.fixture
def keyed(tmp_path: Path) -> Iterator[Stand]:
    with new_stand(tmp_path, keys=AccessKeys({"ask-key": Scope.ASK})) as stand:
        stand.tell(feedback("p1"), feedback("p2", domain="chemistry"))
        yield stand


def log_in(page: Page) -> None:
    page.get_by_label("Key").fill("ask-key")
    page.get_by_role("button", name="Log in").click()
    # A click does not wait: who clears the cookies before the answer has come would be given one after that.
    expect(page).not_to_have_url(re.compile("/login"))


def expect_login(page: Page, stand: Stand, wanted: str) -> None:
    expect(page).to_have_url(f"{stand.url}/login?next={wanted}")


def test_an_open_feed_leads_to_the_login_when_the_inspector_is_another_and_from_there_back(
    browser: Browser, keyed: Stand
) -> None:
    with keyed.serving(), viewer(browser, keyed.url) as opened:
        page = opened.open(PHYSICS)
        log_in(page)
        expect_live(page)
        keyed.stop()
        with keyed.serving():
            expect_login(page, keyed, "%2F%3Fdomain%3Dphysics")
            log_in(page)
            expect(page).to_have_url(keyed.url + PHYSICS)
            expect(page.locator("#rows .row")).to_have_count(1)


def test_what_a_page_asks_for_without_a_session_leads_to_the_login(browser: Browser, keyed: Stand) -> None:
    with keyed.serving(), viewer(browser, keyed.url) as opened:
        page = opened.open(PHYSICS)
        log_in(page)
        expect_live(page)
        opened.context.clear_cookies()
        page.get_by_label("Domain").select_option("chemistry")
        expect_login(page, keyed, "%2F%3Fdomain%3Dphysics")
        opened.open("/run")
        log_in(page)
        expect(page.get_by_role("heading", level=1)).to_contain_text("State unknown")
        opened.context.clear_cookies()
        page.evaluate("void refresh()")  # not awaited: it leads away from the page it runs in
        expect_login(page, keyed, "%2Frun")
        opened.open("/ask")
        log_in(page)
        opened.context.clear_cookies()
        page.locator("textarea").fill("What voltage?")
        page.get_by_role("button", name="Ask").click()
        expect_login(page, keyed, "%2Fask")
        log_in(page)
        expect(page.locator("#asked summary")).to_have_text("What voltage?")


def test_a_filter_that_is_refused_leaves_the_rows_and_says_why(watcher: Viewer, live: Stand) -> None:
    live.tell(feedback("p1"))
    page = watcher.open(PHYSICS)
    expect_live(page)
    page.get_by_label("Nats from").fill(".")
    expect(page.locator("input:invalid")).to_have_count(1)
    page.get_by_label("Nats from").fill("")
    page.get_by_label("Round").fill(TOO_LARGE)
    expect(page.get_by_role("alert")).to_contain_text(re.compile("found before: .*round"))
    expect(page.locator("#rows .row")).to_have_count(1)
    page.get_by_label("Round").fill("1")
    expect(page).to_have_url(re.compile("round=1"))
    expect(page.get_by_role("alert")).to_be_hidden()
    expect_live(page)
    watcher.faults.clear()  # Chromium notes the 422


def test_a_stream_that_is_refused_at_first_is_asked_for_again(watcher: Viewer, live: Stand) -> None:
    refused: list[Route] = []

    def refuse_first(route: Route) -> None:
        refused.append(route)
        if len(refused) == 1:
            route.fulfill(status=429, json={"error": {"message": "64 event streams are open"}})
        else:
            route.continue_()

    watcher.page.route("**/live*", refuse_first)
    page = watcher.open()
    expect(page.locator("#told")).to_have_text("Not connected (64 event streams are open); trying again…")
    expect_live(page)
    live.tell(feedback("p1"))
    expect(page.locator("#rows .row")).to_have_count(1)
    watcher.faults.clear()  # Chromium notes the 429
