"""The live feed in a real browser: rows as they come, filters, addresses, keys, and a connection that is lost."""

import re
from pathlib import Path

from playwright.sync_api import Browser, Page, Route, expect

from tests.browser.chromium import Viewer, viewer
from tests.browser.stand import Stand, new_stand
from tests.unit.inspector.told import feedback, revised, status


def shown(page: Page) -> list[str]:
    """Problems of the rows, from the top."""
    return [re.findall(r"p\d+", text)[0] for text in page.locator("#rows .place").all_inner_texts()]


def expect_live(page: Page) -> None:
    expect(page.locator("#told")).to_have_attribute("data-state", "live")


def expect_exchange(page: Page, problem: str) -> None:
    """Its page, with its keys at work."""
    expect(page.get_by_role("heading", level=1)).to_contain_text(problem)
    expect(page.locator(".between .keys")).to_be_visible()


def test_rows_come_live_newest_first(watcher: Viewer, live: Stand) -> None:
    page = watcher.open()
    expect(page.get_by_text("No feedback yet")).to_be_visible()
    expect_live(page)
    for number in range(1, 6):
        live.tell(feedback(f"p{number}"))
    expect(page.locator("#rows .row")).to_have_count(5)
    assert shown(page) == ["p5", "p4", "p3", "p2", "p1"]
    expect(page.get_by_text("No feedback yet")).to_have_count(0)
    first = page.locator("#rows .row").first
    for part in ("a ← b", "Multiply, do not add.", "match force", "round 1, step 1", "a@v0 ← b@v0", "physics"):
        expect(first).to_contain_text(part)


def test_rollouts_of_one_problem_are_one_row_that_grows(watcher: Viewer, live: Stand) -> None:
    live.tell(feedback("p1", 0), feedback("p1", 1, delivered="Check the units."))
    page = watcher.open()
    expect_live(page)
    row = page.locator("#rows .row")
    expect(row).to_have_count(1)
    live.tell(feedback("p1", 2), feedback("p1", 3, correct=True))
    expect(row).to_contain_text("4 rollouts")
    expect(row).to_have_count(1)
    assert row.locator(".said").all_inner_texts() == ["Multiply, do not add. ×3", "Check the units."]
    expect(row.locator(".marks").first).to_contain_text("2 × wrong")
    live.tell(revised("p1", 2))
    expect(row.locator(".marks").first).to_contain_text("wrong → right fixed")
    live.tell(feedback("p2"))
    expect(row).to_have_count(2)
    page.get_by_text("4 rollouts").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("p1, all rollouts")


def test_who_opens_the_feed_sees_where_the_run_is(reader: Viewer) -> None:
    page = reader.open()
    expect(page.get_by_label("The run now")).to_contain_text(re.compile(r"Done, \d rounds?"))
    expect(page.get_by_label("The run now")).to_contain_text("Latest test: a@v")


def test_scripts_may_come_in_any_order(watcher: Viewer, live: Stand) -> None:
    late: list[Route] = []
    watcher.page.route("**/hx-sse.min.js*", lambda route: late.append(route))
    page = watcher.page
    page.goto(live.url, wait_until="commit")
    expect(page.get_by_text("No feedback yet")).to_be_visible()
    page.wait_for_timeout(500)  # what htmx does without its extension, it would do in this time
    late[0].continue_()
    expect_live(page)


def test_a_row_tells_what_became_of_the_answer(watcher: Viewer, live: Stand) -> None:
    live.tell(feedback("p1"))
    page = watcher.open()
    expect_live(page)
    row = page.locator("#rows .row")
    expect(row.locator(".outcome")).to_have_text("wrong")
    live.tell(revised("p1", change="fixed"))
    expect(row.locator(".outcome")).to_have_text("wrong → right fixed")
    expect(row).to_have_count(1)


def test_a_connection_that_is_lost_is_taken_up_without_gap_or_double(browser: Browser, tmp_path: Path) -> None:
    with new_stand(tmp_path) as stand, stand.serving(), viewer(browser, stand.url) as opened:
        page = opened.open()
        expect_live(page)
        stand.tell(feedback("p1"), feedback("p2"))
        expect(page.locator("#rows .row")).to_have_count(2)
        stand.stop()
        expect(page.locator("#told")).to_have_attribute("data-state", "lost")
        stand.tell(feedback("p3"), revised("p1", change="fixed"), feedback("p4"))
        with stand.serving():
            expect_live(page)
            expect(page.locator("#rows .row")).to_have_count(4)
            assert shown(page) == ["p4", "p3", "p2", "p1"]
            expect(page.locator("#rows .row").last).to_contain_text("fixed")
            stand.tell(feedback("p5"))
            expect(page.locator("#rows .row").first).to_contain_text("p5")
            assert shown(page) == ["p5", "p4", "p3", "p2", "p1"]


def test_who_was_there_before_the_log_began_anew_is_told(browser: Browser, tmp_path: Path) -> None:
    with new_stand(tmp_path / "before") as stand, stand.serving(), viewer(browser, stand.url) as opened:
        stand.tell(feedback("p1"), feedback("p2"))
        page = opened.open()
        expect_live(page)
        stand.stop()
        with new_stand(tmp_path / "after") as anew:
            anew.url = stand.url
            anew.tell(feedback("p1"))
            with anew.serving():
                expect(page.get_by_role("alert")).to_have_text("The log began anew. Load the page again.")
                anew.tell(feedback("p7"))
                expect(page.locator("#rows .row").first).to_contain_text("p7")


def test_paused_rows_wait_and_come_in_order(watcher: Viewer, live: Stand, browser: Browser) -> None:
    page = watcher.open()
    expect_live(page)
    page.get_by_role("button", name="Pause").click()
    live.tell(feedback("p1"), feedback("p2"), feedback("p3"))
    with viewer(browser, live.url) as other:
        expect(other.open().locator("#rows .row")).to_have_count(3)
    expect(page.locator("#rows .row")).to_have_count(0)
    page.keyboard.press("p")
    expect(page.locator("#rows .row")).to_have_count(3)
    assert shown(page) == ["p3", "p2", "p1"]


def test_two_viewers_see_the_same(watcher: Viewer, live: Stand, browser: Browser) -> None:
    with viewer(browser, live.url) as other:
        pages = (watcher.open(), other.open())
        for page in pages:
            expect_live(page)
        live.tell(*(feedback(f"p{number}") for number in range(1, 21)))
        for page in pages:
            expect(page.locator("#rows .row")).to_have_count(20)
            assert shown(page) == [f"p{number}" for number in range(20, 0, -1)]


def test_filters_narrow_the_feed_and_what_comes_after(watcher: Viewer, live: Stand) -> None:
    live.tell(feedback("p1", domain="chemistry"), feedback("p2", verdict="no_match", delivered=None), feedback("p3"))
    page = watcher.open()
    expect(page.locator("#rows .row")).to_have_count(3)
    page.get_by_text("Filters").click()
    page.get_by_label("Domain").select_option("chemistry")
    expect(page.locator("#rows .row")).to_have_count(1)
    expect(page).to_have_url(re.compile(r"/\?domain=chemistry$"))
    expect_live(page)
    live.tell(feedback("p4"), feedback("p5", domain="chemistry"))
    expect(page.locator("#rows .row")).to_have_count(2)
    assert shown(page) == ["p5", "p1"]


def test_a_bar_of_a_distribution_filters_the_feed_and_takes_its_filter_away_again(watcher: Viewer, live: Stand) -> None:
    live.tell(*(feedback(f"p{number}", response="x" * (10 + 30 * number)) for number in range(1, 4)))
    live.tell(feedback("p4", verdict="no_match", delivered=None, response="x" * 200))
    page = watcher.open("/?domain=physics")
    page.get_by_role("link", name="Distributions").click()
    spread = page.get_by_label("Distributions")
    expect(spread.get_by_role("listitem").filter(has_text="no match")).to_contain_text("1")
    spread.get_by_role("link", name="match", exact=True).click()
    expect(page.locator("#rows .row")).to_have_count(3)
    spread.get_by_role("link", name="40–49").click()
    expect(page).to_have_url(re.compile(r"domain=physics&verdict=match&min_chars=40&max_chars=49&shown=distributions$"))
    assert shown(page) == ["p1"]
    expect_live(page)
    live.tell(feedback("p5", response="x" * 45), feedback("p6"))
    expect(page.locator("#rows .row")).to_have_count(2)
    page.get_by_label("Domain").select_option("chemistry")
    expect(spread).to_contain_text("No feedback fits")
    expect(page).to_have_url(re.compile(r"domain=chemistry.*&shown=distributions$"))
    page.go_back()
    spread.get_by_role("link", name="match", exact=True).click()
    expect(page).not_to_have_url(re.compile("verdict="))
    page.get_by_role("link", name="Hide distributions").click()
    expect(spread).to_have_count(0)


def test_search_as_one_types_and_an_address_shows_the_same_again(watcher: Viewer, live: Stand) -> None:
    live.tell(feedback("p1", raw="mind the torque"), feedback("p2", response="a torque of 2"), feedback("p3"))
    page = watcher.open()
    page.get_by_label("Search").press_sequentially("torq")
    expect(page.locator("#rows .row")).to_have_count(2)
    expect(page).to_have_url(re.compile(r"/\?q=torq$"))
    again = watcher.another()
    again.goto(page.url)
    assert shown(again) == shown(page) == ["p2", "p1"]
    expect(again.get_by_label("Search")).to_have_value("torq")


def test_what_is_typed_while_an_answer_is_under_way_counts(watcher: Viewer, live: Stand) -> None:
    live.tell(feedback("p1", raw="mind the torque"), feedback("p2", raw="a tor"), feedback("p3"))
    page = watcher.open()
    expect_live(page)
    held: list[Route] = []
    page.route(re.compile(r"/\?q=tor"), lambda route: route.continue_() if held else held.append(route))
    search = page.get_by_label("Search")
    with page.expect_request(re.compile(r"/\?q=tor\b")):
        search.press_sequentially("tor")
    search.press_sequentially("que")
    expect(page).to_have_url(re.compile(r"/\?q=torque$"))
    assert shown(page) == ["p1"]


def test_only_changes_that_were_asked_for_come_when_they_happen(watcher: Viewer, live: Stand) -> None:
    page = watcher.open("/?change=broke")
    expect_live(page)
    live.tell(
        feedback("p1", correct=True), feedback("p2"), revised("p2", change="fixed"), revised("p1", change="broke")
    )
    expect(page.locator("#rows .row")).to_have_count(1)
    assert shown(page) == ["p1"]


def test_keys_go_through_rows_and_exchanges(watcher: Viewer, live: Stand) -> None:
    live.tell(*(feedback(f"p{number}") for number in range(1, 4)))
    page = watcher.open("/?domain=physics")
    expect_live(page)
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    expect_exchange(page, "p2")
    page.go_back()
    expect_live(page)
    expect(page.locator("#rows .row a").nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    expect_exchange(page, "p2")
    page.keyboard.press("j")
    expect_exchange(page, "p1")
    page.keyboard.press("k")
    expect_exchange(page, "p2")
    page.keyboard.press("k")
    expect_exchange(page, "p3")
    expect(page).to_have_url(re.compile(r"domain=physics$"))


def test_older_pages_stand_still(watcher: Viewer, live: Stand) -> None:
    live.tell(*(feedback(f"p{number}") for number in range(1, 71)))
    page = watcher.open()
    page.get_by_role("link", name="Older").click()
    expect(page.locator("#rows .row")).to_have_count(20)
    assert shown(page) == [f"p{number}" for number in range(20, 0, -1)]
    live.tell(feedback("p99"), status(2))
    page.reload()
    assert shown(page)[0] == "p20"
    expect(page.get_by_role("link", name="Older")).to_have_count(0)


def test_rows_that_live_ones_push_out_are_on_the_older_page(watcher: Viewer, live: Stand) -> None:
    live.tell(feedback("p1"), feedback("p2"))
    page = watcher.open()
    expect_live(page)
    older = page.get_by_role("link", name="Older")
    expect(older).to_have_count(0)
    # As many as there may be, in the page alone: to tell them takes long, and makes the same rows.
    page.evaluate(
        "() => { const rows = part('rows'); const one = rows.firstElementChild;"
        " for (let i = 0; i < MOST_ROWS; i++) rows.prepend(one.cloneNode(true)); trim(); }"
    )
    older.click()
    expect(page.locator("#rows .row")).to_have_count(1)
    assert shown(page) == ["p1"]
