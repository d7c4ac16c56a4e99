"""Who may tutor whom this round: the cognizance gate (paper section 3.2).

gap_i = sum over domains of (best_d - score_i,d) / best_d, where best_d is the best student's score in that domain;
a student is cognizant iff gap_i <= tau. The paper has two students, each strong in a domain. With more of them the rule
holds for every two: the gap of a tutor to a tutee is over the domains that these two are strong in, and to the better
of them, as a specialist of three domains is weak in some, whomever it tutors. `GateScope.ALL` takes all domains and all
students instead; for two students it is the same.

The decision is taken in rationals, because in floats nearly a third of the pairs of scores that lie exactly at tau fall
on the wrong side. A missing score is an error, never "cognizant".
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from fractions import Fraction
from functools import cache
from itertools import permutations

from shared.method.scores import (
    RESAMPLES,
    ScoreError,
    check_confidence,
    checked_score,
    percentile_interval,
    require_same_keys,
    resampled_positions,
)

Totals = int | Mapping[str, int]
"""Samples behind each count: one number for all domains, or one for each domain."""

Pair = tuple[str, str]
"""Tutor and tutee."""

Exact = float | str | Fraction
"""A setting meant as its decimal text: 0.2 and "0.2" are 1/5."""


class GateMode(StrEnum):
    """Which tutors speak. `cognizance` is the method; the others are its ablations."""

    COGNIZANCE = "cognizance"
    ALWAYS = "always"
    NEVER = "never"
    DOMAIN_SELECTIVE = "domain_selective"


class GateScope(StrEnum):
    """What the gap between a tutor and a tutee is taken over: the domains of these two, or all."""

    PAIR = "pair"
    ALL = "all"


def gaps_exact(correct: Sequence[Mapping[str, int]], totals: Totals) -> list[Fraction]:
    """Each student's gap from its correct samples in each domain. Raises ScoreError unless 0 <= count <= total."""
    domains = require_same_keys(correct, "gap")
    return _relative_shortfalls(
        [{name: _share(row[name], _total(totals, name), name) for name in domains} for row in correct]
    )


def pair_gaps(
    correct: Mapping[str, Mapping[str, int]], strong_domain: Mapping[str, str], totals: Totals, scope: GateScope
) -> dict[Pair, Fraction]:
    """The gap of each student to each tutee. correct: by student, its right samples in each domain.

    Raises ScoreError unless 0 <= count <= total.
    """
    domains = require_same_keys(list(correct.values()), "gap")

    def gap(pair: Pair) -> Fraction:
        students, compared = _compared(pair, list(correct), strong_domain, domains, scope)
        rows = [{name: correct[student][name] for name in compared} for student in students]
        return gaps_exact(rows, totals)[students.index(pair[0])]

    return {pair: gap(pair) for pair in permutations(correct, 2)}


def is_cognizant(gap: Fraction, tau: Exact, *, before: bool | None = None, hysteresis: Exact = 0) -> bool:
    """Whether a gap lets its student tutor: gap <= tau, inclusive and exact.

    before: last round's answer; with it a cognizant student stays so up to tau + hysteresis and another becomes
    so only at tau - hysteresis, which keeps sampling noise from flipping the gate. Off at 0, the method's own rule.
    """
    limit, slack = as_exact(tau, "tau"), as_exact(hysteresis, "hysteresis")
    # A student whose gate is not known is judged by tau itself.
    return gap <= limit + {None: Fraction(0), True: slack, False: -slack}[before]


def may_tutor(mode: GateMode, cognizant: bool, *, problem_domain: str, strong_domain: str) -> bool:
    """Whether a tutor speaks on this problem.

    domain_selective: a tutor that is not cognizant speaks only on problems of its strong domain.
    """
    # Settings and state hold the mode as text.
    match GateMode(mode):
        case GateMode.ALWAYS:
            return True
        case GateMode.NEVER:
            return False
        case GateMode.COGNIZANCE:
            return cognizant
        case GateMode.DOMAIN_SELECTIVE:
            return cognizant or problem_domain == strong_domain


def gap_intervals(
    per_problem: Mapping[str, Mapping[str, Sequence[float]]],
    strong_domain: Mapping[str, str],
    scope: GateScope,
    *,
    confidence: float = 0.95,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[Pair, tuple[float, float]]:
    """(low, high) of the gap of each student to each tutee, by resampling problems within each domain.

    per_problem: by student, domain -> mean score of each problem, in the same problem order for all students
    (a resample takes the same problems for everyone, since one problem is easy or hard for all). Seeded.
    """
    check_confidence(confidence)
    students = list(per_problem)
    domains = require_same_keys(list(per_problem.values()), "gap interval")
    columns = {name: _aligned_columns(list(per_problem.values()), name) for name in domains}
    # By domain and student, the mean of each resample. The broker waits for it: C adds up, not a generator.
    draws: dict[str, list[list[float]]] = {name: [[] for _ in students] for name in domains}
    for offset, name in enumerate(domains):
        looks = [scores.__getitem__ for scores in columns[name]]
        # A stream of its own for each domain, and in it the same problems for every student.
        for picked in resampled_positions(len(columns[name][0]), seed + offset, resamples):
            for look, means in zip(looks, draws[name], strict=True):
                means.append(sum(map(look, picked)) / len(picked))

    @cache
    def gaps(named: tuple[str, ...], compared: tuple[str, ...]) -> list[list[float]]:
        """Of every student named, in each resample."""
        at = [students.index(name) for name in named]
        return _float_shortfalls([[draws[name][i] for i in at] for name in compared])

    def interval(pair: Pair) -> tuple[float, float]:
        named, compared = _compared(pair, students, strong_domain, domains, scope)
        return percentile_interval(gaps(named, compared)[named.index(pair[0])], confidence)

    return {pair: interval(pair) for pair in permutations(students, 2)}


def compares_all(scope: GateScope, students: Sequence[str]) -> bool:
    """Whether the gap of any pair is taken over all students and all domains."""
    # Of two the rule is the paper's, which also counts domains that neither is strong in.
    return scope is GateScope.ALL or len(students) == 2


def _compared(
    pair: Pair, students: Sequence[str], strong_domain: Mapping[str, str], domains: Sequence[str], scope: GateScope
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The students and the domains that a gap between two is taken over, in the order given."""
    if compares_all(scope, students):
        return tuple(students), tuple(domains)
    theirs = {strong_domain[student] for student in pair}
    return tuple(name for name in students if name in pair), tuple(name for name in domains if name in theirs)


def as_exact(value: Exact, what: str) -> Fraction:
    """The rational that the setting's decimal text says; ScoreError if it is not a number of at least 0."""
    try:
        # From its text: the float 0.2 itself is a little more than 1/5, and a gap of exactly tau must pass.
        exact = value if isinstance(value, Fraction) else Fraction(str(value))
    except (ValueError, ZeroDivisionError) as error:
        raise ScoreError(f"{what}: expected a number such as 0.2, got {value!r}; correct the setting") from error
    if exact < 0:
        raise ScoreError(f"{what}: expected at least 0, got {value!r}; correct the setting")
    return exact


def _relative_shortfalls(scores: Sequence[Mapping[str, Fraction]]) -> list[Fraction]:
    """The gaps; a domain in which nobody scores separates nobody, so its term is 0."""
    # best_d in the paper's terms: of the students of this run, not of any fixed reference.
    best = {name: max(row[name] for row in scores) for name in (scores[0] if scores else ())}
    return [sum(((best[name] - row[name]) / best[name] for name in best if best[name]), Fraction(0)) for row in scores]


def _float_shortfalls(domains: Sequence[Sequence[Sequence[float]]]) -> list[list[float]]:
    """The same in floats, enough for an interval: of each student, in each resample. domains: by domain and student,
    the score of each resample."""
    terms = []
    for columns in domains:
        bests = list(map(max, zip(*columns, strict=True)))
        terms.append(
            [
                [(best - score) / best if best else 0.0 for best, score in zip(bests, column, strict=True)]
                for column in columns
            ]
        )
    return [list(map(sum, zip(*of_student, strict=True))) for of_student in zip(*terms, strict=True)]


def _total(totals: Totals, domain: str) -> int:
    if isinstance(totals, int):
        return totals
    if domain not in totals:
        raise ScoreError(
            f"samples: expected a number for {domain!r}, got only {sorted(totals)}; count every domain's samples"
        )
    return totals[domain]


def _share(count: int, total: int, domain: str) -> Fraction:
    if total <= 0 or not 0 <= count <= total:
        raise ScoreError(
            f"{domain}: expected a count between 0 and its number of samples, got {count!r} of {total!r}; "
            "evaluate again before gating"
        )
    return Fraction(count, total)


def _aligned_columns(per_problem: Sequence[Mapping[str, Sequence[float]]], domain: str) -> list[list[float]]:
    """Each student's scores in one domain, checked to be as many for everyone and at least one."""
    columns = [[checked_score(value, domain) for value in row[domain]] for row in per_problem]
    lengths = sorted({len(column) for column in columns})
    if len(lengths) != 1 or lengths[0] == 0:
        raise ScoreError(f"{domain}: expected the same problems for every student, at least one, got {lengths} scores")
    return columns
