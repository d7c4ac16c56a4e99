"""Intervals over dependent revisions, and the rule that silences a tutor."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.silencing import simulate
from shared.method.intervals import effective_count, wilson_interval, wilson_lower
from shared.method.scores import ScoreError
from shared.method.silencing import BreakCount, judge_tutor, resampling_chance


@pytest.mark.parametrize(
    ("rate", "count", "low", "high"),
    # Newcombe 1998, table I, method 3 (Wilson without continuity correction).
    [
        (81 / 263, 263, 0.2553, 0.3662),
        (15 / 148, 148, 0.0624, 0.1605),
        (0.0, 20, 0.0, 0.1611),
        (1 / 29, 29, 0.0061, 0.1718),
    ],
)
def test_wilsons_interval_is_the_published_one(rate: float, count: int, low: float, high: float) -> None:
    assert wilson_interval(rate, count) == pytest.approx((low, high), abs=5e-5)


def test_the_one_sided_end_is_that_of_the_two_sided_90_percent_interval() -> None:
    ends = wilson_interval(0.7, 12, confidence=0.9)
    assert ends is not None
    assert wilson_lower(0.7, 12, confidence=0.95) == pytest.approx(ends[0])
    assert (wilson_interval(0.5, 0), wilson_lower(0.5, 0)) == (None, None)


@given(st.lists(st.integers(1, 16), min_size=1, max_size=30))
def test_groups_weigh_at_most_their_number_and_at_least_one(sizes: list[int]) -> None:
    effective = effective_count(sum(sizes), sum(size * size for size in sizes))
    assert 1 - 1e-9 <= effective <= len(sizes) + 1e-9
    if len(set(sizes)) == 1:
        assert effective == pytest.approx(len(sizes))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: effective_count(3, 2),
        lambda: wilson_lower(1.2, 3),
        lambda: wilson_lower(0.5, -1),
        lambda: resampling_chance(4, 4),
    ],
)
def test_what_cannot_be_is_refused(wrong: Callable[[], float | None]) -> None:
    with pytest.raises(ScoreError, match="expected"):
        wrong()


def test_chance_leaves_the_right_rollout_itself_out() -> None:
    assert [resampling_chance(wrong, 8) for wrong in (0, 1, 7)] == [0.0, pytest.approx(1 / 7), 1.0]
    assert resampling_chance(0, 1) == 0.0


def count(groups: int, broken: int, size: int = 4, chance: float = 0.0) -> BreakCount:
    """Equal groups, all broken or all kept."""
    return BreakCount(broken * size, groups * size, groups * size * size, expected=chance * groups * size)


def test_a_tutor_that_breaks_everything_is_silenced_after_three_groups_of_equal_size() -> None:
    verdicts = [judge_tutor(count(groups, groups), 0.5) for groups in range(1, 5)]
    assert [verdict is not None and verdict.silence for verdict in verdicts] == [False, False, True, True]
    assert verdicts[2] is not None and verdicts[2].low == pytest.approx(3 / (3 + 1.6449**2), abs=1e-4)


def test_revisions_of_one_group_are_no_more_evidence_than_the_group() -> None:
    small, large = judge_tutor(count(3, 2, size=1), 0.5), judge_tutor(count(3, 2, size=16), 0.5)
    assert small is not None and large is not None
    assert small.low == pytest.approx(large.low)


def test_what_answering_again_would_break_is_not_held_against_the_tutor() -> None:
    hard = judge_tutor(count(8, 7, chance=0.8), 0.5)
    easy = judge_tutor(count(8, 7, chance=0.2), 0.5)
    assert hard is not None and easy is not None
    assert (hard.silence, hard.bound) == (False, 0.8)
    assert (easy.silence, easy.bound) == (True, 0.5)


def test_nothing_to_judge_by_is_no_judgement_and_a_bound_of_one_never_silences() -> None:
    assert judge_tutor(BreakCount(0, 0, 0, 0.0), 0.5) is None
    verdict = judge_tutor(count(1000, 1000), 1.0)
    assert verdict is not None and not verdict.silence
    assert not math.isnan(verdict.low)


@pytest.mark.parametrize(
    ("rate", "correlation", "least", "most"),
    [(0.2, 0.0, 0.0, 0.0), (0.2, 1.0, 0.0, 0.02), (0.3, 0.5, 0.0, 0.02), (0.4, 0.5, 0.0, 0.05), (0.9, 0.5, 1.0, 1.0)],
)
def test_looking_after_every_group_silences_the_bad_and_hardly_ever_the_honest(
    rate: float, correlation: float, least: float, most: float
) -> None:
    """The figures of docs/diagnostics.md, from fewer rounds and another seed, so with room."""
    outcome = simulate(rate, correlation, runs=200, seed=7)
    assert least <= outcome.silenced <= most
    if rate == 0.9:
        late = outcome.quantile(0.95)
        assert late is not None and late <= 15
