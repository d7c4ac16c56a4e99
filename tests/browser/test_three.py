"""The pages of a run of three students, each strong in a domain of its own, and of a domain that is nobody's."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from services.inspector.store.filters import ExchangeFilter
from shared.contracts.events import UNSTAMPED, GateDecided
from shared.contracts.run import RunState
from tests.browser.chromium import Viewer, viewer
from tests.browser.scripted import scripted_stand
from tests.browser.stand import Stand
from tests.browser.test_beside import legend
from tests.fakes.broker import THREE
from tests.fakes.final_state import final_state
from tests.unit.inspector.test_web import evaluated
from tests.unit.inspector.told import feedback


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


def test_each_has_a_profile_of_its_scores(page_of: Viewer) -> None:
    page = page_of.open("/run")
    profiles = page.locator("figure.profile")
    expect(profiles).to_have_count(3)
    assert profiles.first.locator("text[text-anchor=middle]").all_text_contents() == ["physics", "chemistry", "biology"]
    expect(profiles.first.locator("polyline")).to_have_count(2)
    expect(page.locator("#scores")).to_contain_text("Shaded: nowhere worse than that.")


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


def test_a_domain_that_nobody_is_strong_in_is_shown_as_any(watcher: Viewer, live: Stand) -> None:
    told = evaluated("a@v0", 0.5, 0.1)
    [gate] = final_state().gates
    scores = {name: {**of, "biology": 0.75} for name, of in gate.scores.items()}
    live.tell(
        told.model_copy(update={"scores": {**told.scores, "biology": 0.75}}),
        GateDecided(**UNSTAMPED, decision=gate.model_copy(update={"scores": scores})),
        feedback(domain="biology", question="How many cells?"),
    )
    page = watcher.open("/")
    assert page.locator("select[name=domain] option").all_text_contents()[1:] == ["physics", "chemistry", "biology"]
    page = watcher.open("/run")
    expect(
        page.get_by_role("img", name="Validation score in biology, with 95 % intervals").locator("canvas")
    ).to_be_visible()
    page = watcher.open("/feedback/1")
    section = page.locator("section", has=page.get_by_role("heading", name="might speak"))
    assert section.locator("th[scope=col]").all_inner_texts()[1:4] == ["physics", "chemistry", "biology"]
    expect(section.get_by_role("row", name="b 25.0 % 50.0 % 75.0 % 0.125")).to_be_visible()
    page = watcher.open("/ask")
    expect(page.locator("main")).to_contain_text("How many cells?")


def test_of_more_than_two_one_is_chosen_to_give_feedback(page_of: Viewer) -> None:
    page = page_of.open("/ask")
    expect(page.locator("main")).to_contain_text("One student answers, another gives feedback")
    tutor = page.get_by_label("Who gives feedback")
    expect(tutor).to_have_value("")
    assert tutor.locator("option").all_inner_texts()[0] == "who else validates best"
    tutor.select_option("c")
    expect(tutor).to_have_value("c")


def test_who_taught_whom_is_one_click_away(page_of: Viewer) -> None:
    page = page_of.open("/run")
    page.get_by_role("navigation", name="On this page").get_by_role("link", name="Who taught whom").click()
    expect(page.locator("#taught").get_by_role("row", name="a b").first).to_be_in_viewport()
    expect(page.locator("#taught thead")).to_have_text("TutorTuteeDomainFeedbacksKept")
