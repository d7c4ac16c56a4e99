"""The pages of a run of three students, each strong in a domain of its own."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from services.inspector.store.filters import ExchangeFilter
from shared.contracts.run import RunState
from tests.browser.chromium import Viewer, viewer
from tests.browser.scripted import scripted_stand
from tests.browser.stand import Stand
from tests.browser.test_beside import legend
from tests.fakes.broker import THREE


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """A run that is done. Read it only."""
    with scripted_stand(tmp_path_factory.mktemp("three"), *THREE, steps=1) as stand, stand.serving():
        yield stand


@pytest.fixture
def page_of(browser: Browser, three: Stand) -> Iterator[Viewer]:
    with viewer(browser, three.url) as opened:
        yield opened
        assert opened.faults == []


def test_the_gap_of_each_tutor_to_each_tutee_is_a_line(page_of: Viewer) -> None:
    page = page_of.open("/run")
    expect(page.locator("[data-chart=gaps] canvas")).to_be_visible()
    expect(page.locator("[data-chart=gaps] figcaption")).to_have_text("Gap of each tutor to its tutee, against τ")
    assert legend(page, "gaps") == ["a to b", "a to c", "b to a", "b to c", "c to a", "c to b", "τ"]


def test_why_a_tutor_might_speak_is_told_of_it_and_its_tutee_alone(page_of: Viewer, three: Stand) -> None:
    exchange = three.store.newest_exchanges(ExchangeFilter(), before=None, limit=1)[0]
    gate = RunState.model_validate_json(three.log.state or "").gates[exchange.round - 1]
    page = page_of.open(f"/feedback/{exchange.id}")
    section = page.locator("section", has=page.get_by_role("heading", name="might speak"))
    expect(section.get_by_role("row")).to_have_count(3)
    for tutor, student in ((exchange.tutor, exchange.student), (exchange.student, exchange.tutor)):
        pair = gate.pair(tutor, student)
        row = section.get_by_role("row").filter(has=page.get_by_role("rowheader", name=tutor, exact=True))
        expect(row.locator("td").nth(len(gate.scores[tutor]))).to_have_text(f"{pair.gap:.3f}")
        expect(row.locator("td").last).to_have_text("yes" if pair.cognizant else "no")
    expect(section).to_contain_text("Each gap is to the other one of these two")
