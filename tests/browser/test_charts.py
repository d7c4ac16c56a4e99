"""Charts of a page that is not looked at, that is answered with an error, or whose run goes on."""

from playwright.sync_api import expect

from tests.browser.chromium import Viewer
from tests.browser.stand import Stand
from tests.unit.results.test_timeline import applied

AWAY = "window.away = true; Object.defineProperty(document, 'hidden', { get: () => window.away });"
BACK = "window.away = false; document.dispatchEvent(new Event('visibilitychange'));"
PLOTS = "uPlot.sync('step').plots.length"


def test_a_run_that_was_opened_in_the_background_is_drawn_when_it_is_looked_at(watcher: Viewer, live: Stand) -> None:
    live.tell(applied("a", 1, 1.0))
    watcher.page.add_init_script(AWAY)
    page = watcher.open("/run")
    page.wait_for_load_state("networkidle")
    expect(page.locator("[data-chart=loss] canvas")).to_have_count(0)
    live.tell(applied("a", 2, 1.0))
    page.evaluate(BACK)
    expect(page.locator("[data-chart=loss] canvas")).to_be_visible()
    expect(page.locator("#news")).to_be_visible()


def paths(stand: Stand) -> tuple[str, str]:
    """Of pages with charts."""
    return "/run", f"/runs?run={stand.config.environment.run_dir.name}"


def test_figures_that_do_not_come_are_asked_for_again(reader: Viewer, recorded: Stand) -> None:
    for path in paths(recorded):
        page = reader.another()
        page.clock.install()
        page.route("**/v1/run*", lambda route: route.abort(), times=1)
        with page.expect_event("requestfailed"):
            page.goto(recorded.url + path)
        expect(page.locator(".uplot")).to_have_count(0)
        page.clock.fast_forward(10_000)
        expect(page.locator(".uplot").first).to_be_visible()
    reader.faults.clear()  # Chromium notes what was aborted


def test_a_run_that_goes_on_is_drawn_anew_and_leaves_its_reader_where_they_are(watcher: Viewer, live: Stand) -> None:
    live.tell(applied("a", 1, 1.0))
    page = watcher.open("/run")
    expect(page.locator("[data-chart=loss] canvas")).to_be_visible()
    page.get_by_text("The newest steps as a table").click()
    live.tell(applied("a", 2, 1.0), applied("a", 3, 1.0))
    page.evaluate("refresh()")
    news = page.locator("#news")
    expect(news).to_be_visible()
    assert page.evaluate("shown.steps.length") == 3
    expect(page.locator("#steps details")).to_have_attribute("open", "")
    expect(page.get_by_text("The newest steps as a table")).to_be_focused()
    news.get_by_role("link").click()
    expect(news).to_be_hidden()
    assert page.locator("#news").get_attribute("data-made") == "3 0 "


def test_charts_that_are_drawn_anew_leave_nothing_behind(reader: Viewer, recorded: Stand) -> None:
    for path in paths(recorded):
        page = reader.open(path)
        expect(page.locator(".uplot").first).to_be_visible()
        before = page.evaluate(PLOTS)
        assert before > 0
        page.evaluate("redraw(); redraw()")
        assert page.evaluate(PLOTS) == before
