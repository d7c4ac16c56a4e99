"""Two runs side by side on the run's page: charts on top of each other, and all of it as tables."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.chromium import viewer
from tests.browser.scripted import scripted_stand
from tests.browser.stand import Stand
from tests.browser.test_reading import LEAST_CONTRAST, UNREADABLE

CHARTS = ("scores-0", "gaps", "delivered", "loss", "grad_norm", "active_share")


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """A run that is done, and one with fewer steps beside it. Read it only."""
    runs = tmp_path_factory.mktemp("runs")
    with scripted_stand(runs / "shorter", steps=2):
        pass
    with scripted_stand(runs / "longer") as made, made.serving():
        yield made


def legend(page: Page, chart: str) -> list[str]:
    labels = page.locator(f"[data-chart={chart}] .u-legend .u-series:not(.bound) .u-label").all_inner_texts()
    return labels[1:]


def test_lines_of_both_runs_are_in_one_chart(browser: Browser, stand: Stand) -> None:
    with viewer(browser, stand.url) as opened:
        page = opened.open("/run")
        page.get_by_label("Beside another run").select_option("shorter")
        page.get_by_role("button", name="Show").click()
        page.wait_for_url("**/run?beside=shorter")
        expect(page.locator("[data-chart=loss] canvas")).to_be_visible()
        for chart in CHARTS:
            names = [name for name in legend(page, chart) if "τ" not in name]
            assert names == ["a", "b", "a, shorter", "b, shorter"], chart
        assert [name for name in legend(page, "gaps") if "τ" in name] == ["τ", "τ, shorter"]
        expect(page.locator("[data-chart=wall] canvas")).to_be_visible()
        assert opened.faults == []


def test_without_javascript_every_table_is_there_twice(browser: Browser, stand: Stand) -> None:
    with viewer(browser, stand.url, java_script_enabled=False) as opened:
        page = opened.open("/run?beside=shorter")
        outcome = page.locator("#beside")
        for label in ("Outcome", "Versions", "a on the test problems", "Feedback delivered to a", "Break-rate of b"):
            row = outcome.get_by_role("row", name=label)
            assert "–" not in row.locator("td").all_inner_texts(), label
        expect(outcome.get_by_role("row", name="Versions")).to_contain_text("a@v3, b@v3")
        expect(outcome.get_by_role("row", name="Versions")).to_contain_text("a@v2, b@v2")
        for section in ("gate", "verdicts", "revisions"):
            expect(page.locator(f"#{section} table")).to_have_count(2)
            expect(page.locator(f"#{section}").get_by_role("heading", name="shorter", exact=True)).to_be_visible()
        page.get_by_text("The newest steps as a table").click()
        expect(page.locator("#steps table").nth(0).locator("tbody tr")).to_have_count(6)
        expect(page.locator("#steps table").nth(1).locator("tbody tr")).to_have_count(4)
        expect(page.locator("#scores thead")).to_contain_text("shorter, newest")
        assert opened.faults == []


def test_alone_there_is_nothing_of_another_run(browser: Browser, stand: Stand) -> None:
    with viewer(browser, stand.url) as opened:
        page = opened.open("/run")
        expect(page.locator("[data-chart=loss] canvas")).to_be_visible()
        assert legend(page, "loss") == ["a", "b"]
        expect(page.locator("#beside")).to_have_count(0)
        expect(page.locator("#gate .scroll table")).to_have_count(1)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_reads_on_a_phone_and_in_the_dark(browser: Browser, stand: Stand, scheme: str) -> None:
    size = {"width": 375, "height": 800}
    with viewer(browser, stand.url, viewport=size, color_scheme=scheme, reduced_motion="reduce") as opened:
        page = opened.open("/run?beside=shorter")
        expect(page.locator("[data-chart=loss] canvas")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        assert page.evaluate(UNREADABLE, LEAST_CONTRAST) == []
