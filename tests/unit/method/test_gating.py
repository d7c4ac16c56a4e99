"""The gate: exact at tau, the published pairs, its modes, and every score it must refuse."""

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.method.gating import GateMode, cognizant_counts, gap_interval, gaps_exact, may_tutor
from shared.method.scores import ScoreError

SAMPLES = 480
counts = st.integers(0, SAMPLES)


def pair(a_score: int, best: int) -> list[dict[str, int]]:
    return [{"physics": a_score}, {"physics": best}]


def test_every_pair_exactly_at_tau_is_cognizant_and_one_sample_less_is_not() -> None:
    at_tau = [(best * 4 // 5, best) for best in range(5, SAMPLES + 1, 5)]
    assert len(at_tau) == 96
    for score, best in at_tau:
        assert cognizant_counts(pair(score, best), SAMPLES, 0.2) == [True, True]
        assert cognizant_counts(pair(score - 1, best), SAMPLES, 0.2) == [False, True]


def test_floats_would_decide_some_of_these_pairs_wrongly() -> None:
    at_tau = [(best * 4 // 5 / SAMPLES, best / SAMPLES) for best in range(5, SAMPLES + 1, 5)]
    assert any((best - score) / best > 0.2 for score, best in at_tau)


@pytest.mark.parametrize("tau", [0.2, "0.2", Fraction(1, 5)])
def test_tau_means_its_decimal_text(tau: float | str | Fraction) -> None:
    assert cognizant_counts(pair(80, 100), 100, tau)[0] is True
    assert cognizant_counts(pair(79, 100), 100, tau)[0] is False


@settings(deadline=None)
@given(counts, counts, counts, counts)
def test_the_best_everywhere_has_no_gap(a: int, b: int, c: int, d: int) -> None:
    correct = [{"physics": a, "chemistry": b}, {"physics": c, "chemistry": d}]
    exact = gaps_exact(correct, SAMPLES)
    assert all(0 <= gap <= 2 for gap in exact)
    assert (exact[0] == 0) is (a >= c and b >= d)


@pytest.mark.parametrize(
    ("correct", "expected"),
    [
        ([{"x": 663, "y": 500}, {"x": 1000, "y": 471}], [0.337, 0.058]),
        ([{"x": 500, "y": 500}, {"x": 500, "y": 500}], [0.0, 0.0]),
        ([{"x": 0, "y": 400}, {"x": 0, "y": 200}], [0.0, 0.5]),
        ([{"x": 0}, {"x": 0}], [0.0, 0.0]),
        ([{"x": 300}], [0.0]),
        ([], []),
    ],
    ids=["relative", "tie", "domain-nobody-solves", "nothing-solved", "alone", "nobody"],
)
def test_gaps(correct: list[dict[str, int]], expected: list[float]) -> None:
    assert list(map(float, gaps_exact(correct, 1000))) == pytest.approx(expected)


def test_totals_may_differ_by_domain() -> None:
    correct = [{"x": 5, "y": 10}, {"x": 10, "y": 5}]
    assert gaps_exact(correct, {"x": 10, "y": 20}) == [Fraction(1, 2), Fraction(1, 2)]


@pytest.mark.parametrize("row", [{}, {"y": 1}, {"x": 1, "y": 1}])
def test_a_missing_domain_is_an_error(row: dict[str, int]) -> None:
    with pytest.raises(ScoreError, match="expected the domains"):
        gaps_exact([{"x": 1}, row], 10)


@pytest.mark.parametrize(("count", "total"), [(11, 10), (-1, 10), (0, 0)])
def test_an_impossible_count_is_an_error(count: int, total: int) -> None:
    with pytest.raises(ScoreError, match="between 0 and"):
        gaps_exact([{"x": count}], total)


def test_a_domain_without_a_total_is_an_error() -> None:
    with pytest.raises(ScoreError, match="'x'"):
        gaps_exact([{"x": 1}], {"y": 10})


@pytest.mark.parametrize("tau", ["a fifth", "nan", -0.2, math.nan])
def test_a_tau_that_is_no_number_is_an_error(tau: float | str) -> None:
    with pytest.raises(ScoreError, match="tau"):
        cognizant_counts(pair(1, 2), 10, tau)


def test_hysteresis_keeps_last_rounds_answer_near_tau_and_is_off_by_default() -> None:
    near = pair(78, 100)
    assert cognizant_counts(near, 100, 0.2, previous=[True, True])[0] is False
    assert cognizant_counts(near, 100, 0.2, previous=[True, True], hysteresis=0.05)[0] is True
    assert cognizant_counts(near, 100, 0.2, previous=[False, True], hysteresis=0.05)[0] is False
    assert cognizant_counts(pair(82, 100), 100, 0.2, previous=[False, True], hysteresis=0.05)[0] is False
    assert cognizant_counts(pair(85, 100), 100, 0.2, previous=[False, True], hysteresis=0.05)[0] is True
    with pytest.raises(ScoreError, match="previous"):
        cognizant_counts(near, 100, 0.2, previous=[True])


@pytest.mark.parametrize(
    ("mode", "cognizant", "strong_domain", "speaks"),
    [
        (GateMode.COGNIZANCE, True, "chemistry", True),
        (GateMode.COGNIZANCE, False, "physics", False),
        (GateMode.ALWAYS, False, "chemistry", True),
        (GateMode.NEVER, True, "physics", False),
        (GateMode.DOMAIN_SELECTIVE, False, "physics", True),
        (GateMode.DOMAIN_SELECTIVE, False, "chemistry", False),
        (GateMode.DOMAIN_SELECTIVE, True, "chemistry", True),
    ],
)
def test_may_tutor(mode: GateMode, cognizant: bool, strong_domain: str, speaks: bool) -> None:
    assert may_tutor(mode, cognizant, problem_domain="physics", strong_domain=strong_domain) is speaks


def test_gap_interval_holds_the_gap_and_is_seeded() -> None:
    weak = {"x": [0.0, 1.0, 0.0, 1.0] * 5, "y": [1.0, 0.5] * 10}
    strong = {"x": [1.0, 1.0, 0.5, 1.0] * 5, "y": [0.5, 0.5] * 10}
    intervals = gap_interval([weak, strong], seed=3, resamples=300)
    assert intervals == gap_interval([weak, strong], seed=3, resamples=300)
    assert intervals != gap_interval([weak, strong], seed=4, resamples=300)
    point = gaps_exact([{name: round(2 * sum(row[name])) for name in row} for row in (weak, strong)], 40)
    assert all(low < gap < high for (low, high), gap in zip(intervals, point, strict=True))


def test_gap_interval_of_equal_students_is_a_point() -> None:
    same = {"x": [0.0, 1.0, 0.5]}
    assert gap_interval([same, same], resamples=50) == [(0.0, 0.0), (0.0, 0.0)]


def test_gap_interval_needs_the_same_problems_for_all() -> None:
    with pytest.raises(ScoreError, match="same problems"):
        gap_interval([{"x": [1.0]}, {"x": [1.0, 0.0]}])
    with pytest.raises(ScoreError, match="same problems"):
        gap_interval([{"x": []}, {"x": []}])
