"""The gate: exact at tau, the published pairs, its modes, and every score it must refuse."""

import math
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.method.gating import (
    Exact,
    GateMode,
    GateScope,
    gap_intervals,
    gaps_exact,
    is_cognizant,
    may_tutor,
    pair_gaps,
)
from shared.method.scores import ScoreError

SAMPLES = 480
counts = st.integers(0, SAMPLES)


def pair(a_score: int, best: int) -> list[dict[str, int]]:
    return [{"physics": a_score}, {"physics": best}]


def cognizant_counts(correct: list[dict[str, int]], samples: int, tau: Exact) -> list[bool]:
    """The paper's rule as it stands there: two students, all domains."""
    return [is_cognizant(gap, tau) for gap in gaps_exact(correct, samples)]


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
    near = Fraction(22, 100)
    assert is_cognizant(near, 0.2, before=True) is False
    assert is_cognizant(near, 0.2, before=True, hysteresis=0.05) is True
    assert is_cognizant(near, 0.2, before=False, hysteresis=0.05) is False
    assert is_cognizant(near, 0.2, hysteresis=0.05) is False, "unknown is judged by tau itself"
    assert is_cognizant(Fraction(18, 100), 0.2, before=False, hysteresis=0.05) is False
    assert is_cognizant(Fraction(15, 100), 0.2, before=False, hysteresis=0.05) is True


@given(
    counts=st.lists(counts, min_size=6, max_size=6),
    tau=st.decimals(0, 2, places=3),
    same_domain=st.booleans(),
    nobodys=st.booleans(),
    scope=st.sampled_from(GateScope),
)
def test_with_two_students_every_scope_is_the_papers_rule(
    counts: list[int], tau: Decimal, same_domain: bool, nobodys: bool, scope: GateScope
) -> None:
    """nobodys: there are problems of a domain that neither is strong in."""
    strong = {"a": "physics", "b": "physics" if same_domain else "chemistry"}
    domains = [*dict.fromkeys(strong.values()), *(["material"] if nobodys else [])]
    correct = {
        name: dict(zip(domains, row, strict=False)) for name, row in zip("ab", (counts[:3], counts[3:]), strict=True)
    }
    paper = dict(zip("ab", gaps_exact(list(correct.values()), SAMPLES), strict=True))
    gaps = pair_gaps(correct, strong, SAMPLES, scope)
    assert gaps == {("a", "b"): paper["a"], ("b", "a"): paper["b"]}
    decided = {tutor: is_cognizant(gap, str(tau)) for (tutor, _), gap in gaps.items()}
    assert decided == dict(zip("ab", cognizant_counts(list(correct.values()), SAMPLES, str(tau)), strict=True))


@pytest.mark.parametrize(
    ("gaps", "tutors"),
    [((337, 58), {"b"}), ((68, 140), {"a", "b"}), ((138, 332), {"a"})],
    ids=["Phys-Chem", "Mat-Phys", "Chem-Mat"],
)
@pytest.mark.parametrize("scope", GateScope)
def test_the_gates_of_the_papers_table_1(gaps: tuple[int, int], tutors: set[str], scope: GateScope) -> None:
    # Arrange the published gaps as each student's shortfall in the domain of the other.
    correct = {"a": {"x": 1000, "y": 1000 - gaps[0]}, "b": {"x": 1000 - gaps[1], "y": 1000}}
    found = pair_gaps(correct, {"a": "x", "b": "y"}, 1000, scope)
    assert [float(gap) for gap in found.values()] == [gap / 1000 for gap in gaps]
    assert {tutor for (tutor, _), gap in found.items() if is_cognizant(gap, 0.2)} == tutors


THREE = {"p": {"x": 90, "y": 80, "z": 20}, "c": {"x": 80, "y": 90, "z": 20}, "b": {"x": 20, "y": 80, "z": 90}}
STRONG = {"p": "x", "c": "y", "b": "z"}


def test_of_three_a_gap_is_over_the_domains_of_the_two_and_to_the_better_of_them() -> None:
    gaps = pair_gaps(THREE, STRONG, 100, GateScope.PAIR)
    assert gaps["p", "c"] == Fraction(10, 90) and gaps["b", "c"] == Fraction(10, 90)
    assert gaps["p", "b"] == Fraction(70, 90), "in z p knows little, so to b it has nothing to say"
    over_all = pair_gaps(THREE, STRONG, 100, GateScope.ALL)
    assert over_all["p", "c"] == over_all["p", "b"] == Fraction(10, 90) + Fraction(70, 90)


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


WEAK = {"x": [0.0, 1.0, 0.0, 1.0] * 5, "y": [1.0, 0.5] * 10}
BETTER = {"x": [1.0, 1.0, 0.5, 1.0] * 5, "y": [0.5, 0.5] * 10}
TWO = {"a": "x", "b": "y"}


def test_gap_intervals_hold_the_gap_and_are_seeded() -> None:
    both = {"a": WEAK, "b": BETTER}
    intervals = gap_intervals(both, TWO, GateScope.PAIR, seed=3, resamples=300)
    assert intervals == gap_intervals(both, TWO, GateScope.ALL, seed=3, resamples=300)
    assert intervals != gap_intervals(both, TWO, GateScope.PAIR, seed=4, resamples=300)
    counted = {name: {domain: round(2 * sum(row[domain])) for domain in row} for name, row in both.items()}
    gaps = pair_gaps(counted, TWO, 40, GateScope.PAIR)
    assert all(intervals[pair][0] < gap < intervals[pair][1] for pair, gap in gaps.items())


def test_a_third_student_changes_no_interval_of_two_others() -> None:
    strong = TWO | {"c": "y"}
    of_two = gap_intervals({"a": WEAK, "b": BETTER}, TWO, GateScope.PAIR, resamples=50)
    of_three = gap_intervals({"a": WEAK, "b": BETTER, "c": WEAK}, strong, GateScope.PAIR, resamples=50)
    assert len(of_three) == 6 and {pair: of_three[pair] for pair in of_two} == of_two


def test_the_interval_of_equal_students_is_a_point() -> None:
    same = {"x": [0.0, 1.0, 0.5]}
    alike = {"a": "x", "b": "x"}
    assert set(gap_intervals({"a": same, "b": same}, alike, GateScope.PAIR, resamples=50).values()) == {(0.0, 0.0)}


@pytest.mark.parametrize(("first", "second"), [([1.0], [1.0, 0.0]), ([], [])])
def test_gap_intervals_need_the_same_problems_for_all(first: list[float], second: list[float]) -> None:
    with pytest.raises(ScoreError, match="same problems"):
        gap_intervals({"a": {"x": first}, "b": {"x": second}}, {"a": "x", "b": "x"}, GateScope.PAIR)
