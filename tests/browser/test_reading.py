"""Reading in every circumstance: a phone's width, light and dark, without JavaScript, and with a long history."""

import sqlite3

import pytest
from playwright.sync_api import Browser, expect

from services.inspector.store.filters import ExchangeFilter
from tests.browser.chromium import Viewer, viewer
from tests.browser.stand import Stand
from tests.unit.inspector.told import feedback

LEAST_CONTRAST = 4.5
MANY = 100_000

UNREADABLE = """least => {
  const channel = (c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const parse = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const [r, g, b, a = 1] = parse(getComputedStyle(node).backgroundColor);
      if (a === 1) return [r, g, b];
    }
    return [255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !node.checkVisibility() || node.closest("svg, option, :disabled")) continue;
    const [one, other] = [light(parse(getComputedStyle(node).color)), light(ground(node))];
    const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    if (contrast < least) found.push([walker.currentNode.data.trim().slice(0, 40), contrast.toFixed(2)]);
  }
  return found;
}"""


def pages(stand: Stand) -> list[str]:
    newest = stand.store.newest_exchanges(ExchangeFilter(verdict="match"), before=None, limit=1)[0]
    return [
        "/",
        "/?domain=physics&verdict=match&shown=distributions",
        f"/feedback/{newest.id}",
        f"/feedback/{newest.id}/group",
        "/run",
        "/ask",
        "/?round=nowhere",
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_contrast_enough(browser: Browser, recorded: Stand, scheme: str) -> None:
    with viewer(browser, recorded.url, color_scheme=scheme, reduced_motion="reduce") as opened:
        for path in pages(recorded):
            page = opened.open(path)
            assert page.evaluate(UNREADABLE, LEAST_CONTRAST) == [], path


def test_nothing_is_wider_than_a_phone(browser: Browser, recorded: Stand) -> None:
    with viewer(browser, recorded.url, viewport={"width": 375, "height": 800}) as opened:
        for path in pages(recorded):
            page = opened.open(path)
            page.wait_for_load_state()
            assert page.evaluate("document.documentElement.scrollWidth") <= 375, path
            for link in page.locator("header nav a").all():
                expect(link).to_be_in_viewport()


def test_everything_reads_without_javascript(browser: Browser, recorded: Stand) -> None:
    with viewer(browser, recorded.url, java_script_enabled=False) as opened:
        page = opened.open()
        page.get_by_text("Filters").click()
        page.get_by_label("Verdict").select_option("no match")
        page.get_by_role("button", name="Show").click()
        expect(page.locator("#rows .row").first).to_contain_text("no match")
        page.locator("#rows .row a").first.click()
        expect(page.get_by_role("heading", name="What the self-teacher saw")).to_be_visible()
        page.get_by_role("link", name="Older").click()
        expect(page.locator(".summary")).to_contain_text("no match")
        page.get_by_role("link", name="Run", exact=True).click()
        for heading in ("Scores", "Gate", "Verdicts", "Broke and fixed", "Steps", "Time and machine", "History"):
            expect(page.get_by_role("heading", name=heading, exact=True)).to_be_visible()
        expect(page.locator("#scores tbody tr")).to_have_count(8)
        assert opened.faults == []


ARABIC = "استخدم القانون v = d / t."
ENDS = """(node, text) => {
  const range = document.createRange(), found = document.createTreeWalker(node, NodeFilter.SHOW_TEXT);
  while (found.nextNode()) if (found.currentNode.data.includes(text)) break;
  range.setStart(found.currentNode, found.currentNode.data.indexOf(text));
  range.setEnd(found.currentNode, found.currentNode.data.indexOf(text) + text.length);
  return [range.getBoundingClientRect().left, range.getBoundingClientRect().right];
}"""


def test_what_is_written_from_right_to_left_is_shown_so(watcher: Viewer, live: Stand) -> None:
    raw = f"<concept>القانون</concept> {ARABIC}"
    live.tell(*(feedback("p1", sample, raw=raw, delivered=ARABIC) for sample in range(2)))
    page = watcher.open()
    said = page.locator("#rows .said")
    assert said.evaluate(ENDS, ".")[1] <= said.evaluate(ENDS, "استخدم")[0], "a sentence ends at its left"
    assert said.evaluate(ENDS, "×2")[0] >= said.evaluate(ENDS, "استخدم")[1], "how often it was given is no part of it"
    page = watcher.open("/feedback/1")
    for heading in ("b said", "Delivered"):
        text = page.locator("section", has=page.get_by_role("heading", name=heading)).locator(".text")
        assert text.evaluate(ENDS, ".")[1] <= text.evaluate(ENDS, "استخدم")[0], heading


def test_what_became_of_a_rows_answers_stands_beside_what_was_said(watcher: Viewer, live: Stand) -> None:
    live.tell(*(feedback("p1", sample, correct=sample > 0) for sample in range(3)))
    row = watcher.open().locator("#rows .row")
    tops = {outcome.bounding_box()["y"] for outcome in row.locator(".outcome").all()}  # type: ignore[index]
    assert len(tops) == 1
    said, place = row.locator(".said").bounding_box(), row.locator(".place").bounding_box()
    assert said is not None
    assert place is not None
    assert place["y"] - (said["y"] + said["height"]) < 8, "no empty line between them"


def test_both_ends_of_a_range_stand_together(reader: Viewer) -> None:
    page = reader.open("/?round=1")
    for width in (1440, 1024, 390):
        page.set_viewport_size({"width": width, "height": 800})
        for name in ("Steps", "Characters of the answer", "Divergence in nats"):
            ends = page.get_by_role("group", name=name, exact=True).get_by_role("textbox").all()
            assert [end.bounding_box()["y"] for end in ends] == [ends[0].bounding_box()["y"]] * 2  # type: ignore[index]


def test_bars_of_a_table_begin_below_each_other(reader: Viewer) -> None:
    meters = reader.open("/run").locator("#verdicts td > meter").all()
    assert len(meters) > 2
    assert len({meter.bounding_box()["x"] for meter in meters}) == 1  # type: ignore[index]


def test_a_run_is_drawn(reader: Viewer) -> None:
    page = reader.open("/run")
    expect(page.locator("figure.plane circle")).not_to_have_count(0)
    drawn = page.locator("figure[data-chart]:visible canvas")
    expect(drawn).to_have_count(14)
    expect(page.locator("figure[data-chart]:not(:visible)")).to_have_count(0)
    inked = "c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some((value) => value > 0)"
    assert all(canvas.evaluate(inked) for canvas in drawn.all())


def test_a_hundred_thousand_feedbacks_are_paged_and_searched(watcher: Viewer, live: Stand) -> None:
    live.tell(feedback("p0", raw="a needle in the hay"))
    fill(live, MANY)
    page = watcher.open()
    expect(page.locator("#rows .row")).to_have_count(50)
    page.get_by_label("Search").fill("needle")
    expect(page.locator("#rows .row")).to_have_count(1)
    expect(page.locator("#rows .row")).to_contain_text("p0")
    page = watcher.open("/?q=straw&step=77777")
    expect(page.locator("#rows .row")).to_have_count(1)
    page.locator("#rows .row a").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("many")


def fill(stand: Stand, count: int) -> None:
    """Exchanges like the first one, straight into the store's file: one a step."""
    connection = sqlite3.connect(stand.config.store_path)
    columns = [row[1] for row in connection.execute("PRAGMA table_info(exchanges)") if row[1] != "id"]
    given = {"step": "n", "problem_id": "'many'", "raw": "'straw ' || n", "delivered": "'straw ' || n"}
    chosen = ", ".join(given.get(name, name) for name in columns)
    with connection:
        connection.execute(
            f"WITH RECURSIVE numbers (n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM numbers WHERE n <= {count}) "
            f"INSERT INTO exchanges ({', '.join(columns)}) "
            f"SELECT {chosen} FROM numbers, exchanges WHERE exchanges.id = 1"
        )
    connection.close()
