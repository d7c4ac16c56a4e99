"""All runs of a directory: the list, any of them over each other, and a comparison as a page."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from shared.results.comparison import COMPARISON_FILE
from tests.browser.chromium import viewer
from tests.browser.scripted import scripted_stand
from tests.browser.stand import Stand
from tests.browser.test_reading import LEAST_CONTRAST, UNREADABLE
from tests.unit.opcod.report.test_comparison import compared

BOTH = "/runs?run=shorter&run=longer"
PAGES = ("/runs", BOTH, "/comparison?name=x")


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """A run that is done, one with fewer steps beside it, and a comparison. Read it only."""
    runs = tmp_path_factory.mktemp("runs")
    with scripted_stand(runs / "shorter", steps=2):
        pass
    (runs / "x").mkdir()
    made = compared({"opcod": [(0.5, 0.75), (0.75, 0.5)], "grpo": [(0.25, 0.75), (0.5, 0.75)]}, seeds=2)
    (runs / "x" / COMPARISON_FILE).write_text(made.model_dump_json())
    with scripted_stand(runs / "longer") as served, served.serving():
        yield served


DELIVERED = "a: share of feedback delivered"
"""A chart over steps whose figures differ from step to step."""


def drawn(page: Page) -> list[str]:
    """The picture of that chart."""
    canvas = page.locator("figure", has_text=DELIVERED).locator("canvas")
    return canvas.evaluate_all("all => all.map((c) => c.toDataURL())")


ALIKE = """([title, picture, alike]) => {
  const figures = [...document.querySelectorAll("figure")].filter((each) => each.textContent.includes(title));
  const found = figures.flatMap((each) => [...each.querySelectorAll("canvas")].map((canvas) => canvas.toDataURL()));
  return (JSON.stringify(found) === JSON.stringify(picture)) === alike;
}"""


def wait_drawn(page: Page, picture: list[str], *, alike: bool) -> None:
    """Until that chart is `picture`, or another one: what is set is drawn a moment later."""
    page.wait_for_function(ALIKE, arg=[DELIVERED, picture, alike])


def test_chosen_runs_are_drawn_over_each_other_smoothed_and_zoomed(browser: Browser, stand: Stand) -> None:
    with viewer(browser, stand.url) as opened:
        page = opened.open("/runs")
        expect(page.get_by_role("row", name="Lay longer over the others")).to_contain_text("done")
        for name in ("shorter", "longer"):
            page.get_by_label(f"Lay {name} over the others").check()
        page.get_by_role("button", name="Lay over each other").click()
        expect(page).to_have_url(re.compile(r"/runs\?run=longer&run=shorter$"))
        chart = page.locator("figure", has_text=DELIVERED)
        expect(chart.locator("canvas")).to_be_visible()
        expect(chart.locator(".u-legend .u-series:not(.bound) .u-label")).to_have_text(["step", "test", "shorter"])
        assert page.evaluate("marks(null, [0, 0.00025, 0.0005, 1500])") == ["0", "0.00025", "0.0005", "1,500"]
        whole = drawn(page)
        page.get_by_label("Smoothing of steps").press("End")
        wait_drawn(page, whole, alike=False)
        smooth = drawn(page)
        page.get_by_label("Steps from").fill("2")
        page.get_by_label("to", exact=True).fill("4")
        wait_drawn(page, smooth, alike=False)
        page.get_by_role("button", name="Whole").click()
        page.wait_for_function("() => document.querySelector('[name=smoothing]').value === '0'")
        expect(chart.locator("canvas")).to_be_visible()
        wait_drawn(page, whole, alike=True)
        assert opened.faults == []


def test_without_javascript_the_outcomes_stand_side_by_side(browser: Browser, stand: Stand) -> None:
    with viewer(browser, stand.url, java_script_enabled=False) as opened:
        page = opened.open(BOTH)
        row = page.get_by_role("row", name="Versions")
        expect(row).to_contain_text("a@v2, b@v2")
        expect(row).to_contain_text("a@v3, b@v3")
        page.get_by_role("link", name="x", exact=True).click()
        expect(page.get_by_role("heading", name="Final test scores, %")).to_be_visible()
        expect(page.get_by_role("listitem").first).to_contain_text("grpo against opcod")
        expect(page.locator("section").first.locator("tbody tr")).to_have_count(2)
        assert opened.faults == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_they_read_on_a_phone_and_in_the_dark(browser: Browser, stand: Stand, scheme: str) -> None:
    size = {"width": 375, "height": 800}
    with viewer(browser, stand.url, viewport=size, color_scheme=scheme, reduced_motion="reduce") as opened:
        for path in PAGES:
            page = opened.open(path)
            page.wait_for_load_state("networkidle")
            assert page.evaluate("document.documentElement.scrollWidth") <= size["width"], path
            assert page.evaluate(UNREADABLE, LEAST_CONTRAST) == [], path
