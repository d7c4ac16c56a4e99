"""Diagnostics: bins overlap as published, Pareto flags, intervals."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.method.metrics import (
    bootstrap_interval,
    difficulty_bins,
    dominates,
    majority_baseline,
    pareto_improved,
)
from shared.method.scores import ScoreError


@pytest.mark.parametrize(
    ("wrong", "bins"),
    [
        (0, ["easiest", "easy"]),
        (1, ["easiest", "easy"]),
        (2, ["easy"]),
        (4, ["easy"]),
        (5, ["hard"]),
        (6, ["hard"]),
        (7, ["hard", "hardest"]),
        (8, []),
    ],
)
def test_difficulty_bins_of_eight(wrong: int, bins: list[str]) -> None:
    assert difficulty_bins(wrong) == bins


@pytest.mark.parametrize(
    ("wrong", "n", "bins"),
    [
        (1, 6, ["easiest", "easy"]),
        (5, 6, ["hard", "hardest"]),
        (2, 16, ["easiest", "easy"]),
        (14, 16, ["hard", "hardest"]),
        (13, 16, ["hard"]),
        (0, 1, ["easiest", "easy"]),
        (1, 1, []),
    ],
)
def test_difficulty_bins_of_other_groups(wrong: int, n: int, bins: list[str]) -> None:
    assert difficulty_bins(wrong, n) == bins


@given(st.integers(1, 64).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_each_problem_is_easy_or_hard_or_wholly_wrong(group: tuple[int, int]) -> None:
    wrong, n = group
    bins = set(difficulty_bins(wrong, n))
    assert ("easy" in bins) + ("hard" in bins) == (wrong < n)
    assert "easiest" not in bins or "easy" in bins
    assert "hardest" not in bins or "hard" in bins


@pytest.mark.parametrize(("wrong", "n"), [(-1, 8), (9, 8), (0, 0)])
def test_an_impossible_group_is_an_error(wrong: int, n: int) -> None:
    with pytest.raises(ScoreError, match="wrong rollouts"):
        difficulty_bins(wrong, n)


@pytest.mark.parametrize(
    ("after", "improved"),
    [
        ({"x": 0.6, "y": 0.5}, True),
        ({"x": 0.6, "y": 0.6}, True),
        ({"x": 0.5, "y": 0.5}, False),
        ({"x": 0.9, "y": 0.4}, False),
    ],
    ids=["one-better", "both-better", "same", "one-worse"],
)
def test_pareto_improved(after: dict[str, float], improved: bool) -> None:
    before = {"x": 0.5, "y": 0.5}
    assert pareto_improved(before, after) is improved
    assert dominates(after, before) is improved


scores = st.dictionaries(st.sampled_from("xyz"), st.floats(0, 1), min_size=3, max_size=3)


@given(scores, scores)
def test_two_students_never_dominate_each_other(one: dict[str, float], other: dict[str, float]) -> None:
    assert not (dominates(one, other) and dominates(other, one))
    assert not dominates(one, one)


def test_bootstrap_interval_holds_the_mean_narrows_and_is_seeded() -> None:
    few, many = [0.0, 1.0] * 10, [0.0, 1.0] * 200
    low, high = bootstrap_interval(few, seed=1)
    assert (low, high) == bootstrap_interval(few, seed=1)
    assert low < 0.5 < high
    narrow_low, narrow_high = bootstrap_interval(many, seed=1)
    assert narrow_high - narrow_low < (high - low) / 2
    assert bootstrap_interval([0.7] * 5) == pytest.approx((0.7, 0.7))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.integers(0, 9))
def test_bootstrap_interval_is_ordered_and_within_the_scores(per_problem: list[float], seed: int) -> None:
    low, high = bootstrap_interval(per_problem, 0.9, seed)
    assert min(per_problem) - 1e-9 <= low <= high <= max(per_problem) + 1e-9


def test_bootstrap_interval_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ScoreError, match="at least one"):
        bootstrap_interval([])
    with pytest.raises(ScoreError, match="confidence"):
        bootstrap_interval([0.5], confidence=95)


def test_majority_baseline() -> None:
    assert majority_baseline(["B", "A", "B", "C"]) == 0.5
    with pytest.raises(ScoreError, match="gold answer"):
        majority_baseline([])
