"""How exchanges spread: every bar's count is what its filter finds, and a chosen bar takes its filter away."""

import pytest

from services.inspector.store.filters import ExchangeFilter
from services.inspector.store.spread import Counted
from services.inspector.store.store import Store
from services.inspector.web.distributions import MOST_BARS, Distribution, distributions, round_width
from tests.unit.inspector.test_web import tell
from tests.unit.inspector.told import feedback, revised


@pytest.fixture
def filled(store: Store) -> Store:
    """40 exchanges of a with answers of 10 to 49 characters, over 20 steps, and one of b."""
    rows = [
        feedback(f"p{number}", step=1 + number // 2, response="x" * (10 + number), correct=number % 4 == 0)
        for number in range(40)
    ]
    tell(store, *rows, feedback("q", student="b", tutor="a", verdict="no_match", delivered=None), revised("p0"))
    for number, nats in enumerate((0.0, 0.009, 0.01, 2.5)):
        store.put_divergences("a", 1 + number // 2, {(f"p{number}", 0): nats})
    return store


def spread(store: Store, **filters: object) -> dict[str, Distribution]:
    wanted = ExchangeFilter.model_validate(filters)
    return {each.title: each for each in distributions(store.spread(wanted), filters)}


def test_every_bar_counts_what_its_filter_finds(filled: Store) -> None:
    found = spread(filled)
    assert list(found) == [
        "Feedback",
        "First answer",
        "Revised answer",
        "Tutee",
        "Domain",
        "Length of the answer, characters",
        "Step",
        "Divergence, nats a token",
    ]
    for distribution in found.values():
        for bar in distribution.bars:
            wanted = ExchangeFilter.model_validate(bar.fields)
            assert len(filled.newest_exchanges(wanted, before=None, limit=100)) == bar.count, bar
    assert [(bar.label, bar.count) for bar in found["Divergence, nats a token"].bars] == [
        ("0–0.01", 2),
        ("0.01–0.03", 1),
        ("1 and more", 1),
    ]
    # p0 and p1 are of the first step, as q is, and two are of each after it.
    steps = [(bar.label, bar.count) for bar in found["Step"].bars]
    assert steps[0] == ("1–2", 5) and set(steps[1:]) == {(f"{step}–{step + 1}", 4) for step in range(3, 20, 2)}


def test_no_bar_of_steps_ends_after_the_newest(store: Store) -> None:
    tell(store, *(feedback(f"p{step}", step=step, verdict="fb_none", delivered=None) for step in range(1, 16)))
    found = spread(store)
    assert [bar.label for bar in found["Step"].bars][-2:] == ["13–14", "15"]
    # What its filter says is the whole width, as more of it may come.
    assert found["Step"].bars[-1].fields == {"min_step": 15, "max_step": 16}
    assert [bar.label for bar in found["Feedback"].bars] == ["no feedback came"]


def test_what_is_not_of_the_filter_is_not_counted(filled: Store) -> None:
    found = spread(filled, student="b")
    assert [bar.label for bar in found["Feedback"].bars] == ["no match"]
    assert "Revised answer" not in found
    assert spread(filled, student="nobody") == {}


def test_the_bar_that_the_filter_has_is_chosen(filled: Store) -> None:
    bars = spread(filled, correct=True)["First answer"].bars
    assert [(bar.label, bar.chosen) for bar in bars] == [("right", True)]
    bars = spread(filled, min_nats=1.0)["Divergence, nats a token"].bars
    assert [(bar.label, bar.chosen) for bar in bars] == [("1 and more", True)]


@pytest.mark.parametrize(
    ("low", "high", "width"), [(1, 1, 1), (1, 12, 1), (1, 13, 2), (0, 100, 10), (7, 1000, 100), (3, 4_000_000, 500_000)]
)
def test_bars_are_round_and_few(low: int, high: int, width: int) -> None:
    assert round_width(low, high) == width
    counted = [Counted("chars", low, 1), Counted("chars", high, 1)]
    [distribution] = distributions(counted, {})
    assert len(distribution.bars) <= MOST_BARS
