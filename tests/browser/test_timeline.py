"""Time and machine on the run's page: bars and use without JavaScript, on a phone, in the dark."""

import pytest
from playwright.sync_api import Browser, expect

from shared.contracts.heartbeats import Heartbeat
from tests.browser.chromium import Viewer, viewer
from tests.browser.stand import Stand
from tests.browser.test_reading import LEAST_CONTRAST, UNREADABLE
from tests.unit.inspector.store.test_usage import beat
from tests.unit.results.test_timeline import STEP

LEAST_CONTRAST_OF_A_BAR = 3.0
"""Of what is no text against its ground (WCAG 2.2, 1.4.11)."""

AS_TEXT = """colours => colours.forEach((colour) => {
  const text = document.querySelector("main").appendChild(document.createElement("p"));
  text.textContent = colour;
  text.style.color = colour;
})"""
"""Says each colour in that colour, on the page's own ground."""

FILLS = "all => [...new Set(all.map((bar) => getComputedStyle(bar).fill))]"


def up() -> list[Heartbeat]:
    served = beat(92.0, gpus=0.5, gpu_bytes=3e9).model_copy(
        update={"versions": {"a@v1": "c"}, "served_since": {"a@v1": 30.0}}
    )
    return [served, beat(92.0, "trainer-a", cores=0.25), Heartbeat(service="broker", replica="0", state="ready", at=9)]


@pytest.fixture
def told(live: Stand) -> Stand:
    """One step, and what services used meanwhile."""
    live.tell(*STEP)
    live.log.up = up()
    for second in range(10, 32, 2):
        live.store.usage.put([each.model_copy(update={"at": float(second)}) for each in up()])
    return live


@pytest.mark.usefixtures("told")
def test_each_bar_is_told_to_whoever_does_not_see_it(watcher: Viewer) -> None:
    page = watcher.open("/run")
    bars = page.get_by_role("list", name="What each service was at").get_by_role("listitem")
    training = "trainer-a: training, step 1 of a, 6.0 s, from 14.0 s to 20.0 s"
    expect(bars.and_(page.get_by_role("listitem", name=training))).to_be_visible()
    expect(bars.and_(page.get_by_role("listitem", name="student-a: GPU memory, 3.0 GB on the mean"))).to_have_count(1)
    page.locator("#machine summary").click()
    expect(page.get_by_role("row", name="trainer-a – – – 6.0 s – –")).to_be_visible()
    served = page.get_by_role("row", name="student-a 0 ready a@v1 62 s 1.00 0.00 GB 0.50 3.0 GB")
    expect(served).to_be_visible()
    expect(page.get_by_role("row", name="broker 0 ready – – – – –")).to_be_visible()


def test_before_the_first_step_the_page_says_so(watcher: Viewer) -> None:
    page = watcher.open("/run")
    expect(page.locator("#machine")).to_contain_text("No step is under way yet")
    expect(page.locator(".timeline")).to_have_count(0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_reads_on_a_phone_without_javascript(browser: Browser, told: Stand, scheme: str) -> None:
    size = {"width": 375, "height": 800}
    with viewer(browser, told.url, viewport=size, color_scheme=scheme, java_script_enabled=False) as opened:
        page = opened.open("/run")
        box = page.locator(".timeline .scroll").first
        assert box.evaluate("box => box.scrollWidth > box.clientWidth + 300")
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        assert page.evaluate(UNREADABLE, LEAST_CONTRAST) == []
        assert opened.faults == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_each_kind_of_work_has_a_colour_of_its_own_that_is_seen(browser: Browser, told: Stand, scheme: str) -> None:
    with viewer(browser, told.url, color_scheme=scheme) as opened:
        page = opened.open("/run")
        fills = page.locator(".timeline rect").evaluate_all(FILLS)
        kinds = page.locator(".works li").count()
        assert len(fills) == kinds == 6
        page.evaluate(AS_TEXT, fills)
        assert page.evaluate(UNREADABLE, LEAST_CONTRAST_OF_A_BAR) == []
        page.evaluate(AS_TEXT, [page.evaluate("getComputedStyle(document.body).backgroundColor")])
        assert len(page.evaluate(UNREADABLE, LEAST_CONTRAST_OF_A_BAR)) == 1
