"""A bundle opened from its folder, in a real Chromium: it filters, asks for nothing, and runs nothing hostile."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect
from typer.testing import CliRunner

from opcod.main import app
from tests.browser.chromium import viewer
from tests.fakes.bundled import HOSTILE, write_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bundle")
    write_run(root / "runs" / "r1")
    done = CliRunner().invoke(app, ["bundle", "r1", "--runs-dir", str(root / "runs"), "--out", str(root / "out")])
    assert done.exit_code == 0, done.output
    return root / "out"


def test_it_opens_from_a_folder_and_filters(browser: Browser, folder: Path) -> None:
    with viewer(browser, folder.as_uri()) as watched:
        page = watched.open("/index.html")
        everything = len(HOSTILE) + 1
        expect(page.locator("article:visible")).to_have_count(everything)
        page.get_by_label("Words").fill("right to LEFT")
        expect(page.locator("article:visible")).to_have_count(1)
        expect(page.locator("#count")).to_have_text(f"1 of the {everything} exchanges on this page.")
        page.get_by_role("button", name="Show all").click()
        expect(page.locator("article:visible")).to_have_count(everything)
        page.get_by_label("change").select_option("fixed")
        expect(page.locator("article:visible h3")).to_have_text(["a.s1.p0.0"])
        assert page.title() == "r1 · opcod", "nothing hostile ran"
        assert watched.faults == []


def test_it_reads_without_javascript_and_on_a_phone(browser: Browser, folder: Path) -> None:
    with viewer(browser, folder.as_uri(), java_script_enabled=False, viewport={"width": 360, "height": 700}) as watched:
        page = watched.open("/index.html")
        assert page.locator("article:visible").count() == len(HOSTILE) + 1
        assert page.locator("#filter:visible").count() == 0
        assert page.locator(".heat-4").first.get_attribute("title").startswith("0.7000 nats")  # type: ignore[union-attr]
    with viewer(browser, folder.as_uri(), viewport={"width": 360, "height": 700}) as watched:
        page = watched.open("/index.html")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing is wider than the screen"
