"""Who may tutor this round: the cognizance gate (paper section 3.2).

gap_i = sum over domains of (best_d - score_i,d) / best_d, where best_d is the best student's score in that domain;
a student is cognizant iff gap_i <= tau. The decision is taken in rationals, because in floats nearly a third of the
pairs of scores that lie exactly at tau fall on the wrong side. A missing score is an error, never "cognizant".
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from fractions import Fraction

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

Exact = float | str | Fraction
"""A setting meant as its decimal text: 0.2 and "0.2" are 1/5."""


class GateMode(StrEnum):
    """Which tutors speak. `cognizance` is the method; the others are its ablations."""

    COGNIZANCE = "cognizance"
    ALWAYS = "always"
    NEVER = "never"
    DOMAIN_SELECTIVE = "domain_selective"


def gaps_exact(correct: Sequence[Mapping[str, int]], totals: Totals) -> list[Fraction]:
    """Each student's gap from its correct samples in each domain. Raises ScoreError unless 0 <= count <= total."""
    domains = require_same_keys(correct, "gap")
    return _relative_shortfalls(
        [{name: _share(row[name], _total(totals, name), name) for name in domains} for row in correct]
    )


def cognizant_counts(
    correct: Sequence[Mapping[str, int]],
    samples: Totals,
    tau: Exact,
    *,
    previous: Sequence[bool] | None = None,
    hysteresis: Exact = 0,
) -> list[bool]:
    """Whether each student may tutor: gap <= tau, inclusive and exact.

    previous: last round's answer; with it a cognizant student stays so up to tau + hysteresis and another becomes
    so only at tau - hysteresis, which keeps sampling noise from flipping the gate. Off at 0, the method's own rule.
    """
    limit, slack = as_exact(tau, "tau"), as_exact(hysteresis, "hysteresis")
    before = [None] * len(correct) if previous is None else list(previous)
    if len(before) != len(correct):
        raise ScoreError(
            f"previous: expected {len(correct)} students, got {len(before)}; pass last round's gate as it was"
        )
    # A student whose gate is not known is judged by tau itself.
    shifts = {None: Fraction(0), True: slack, False: -slack}
    return [gap <= limit + shifts[was] for gap, was in zip(gaps_exact(correct, samples), before, strict=True)]


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


def gap_interval(
    per_problem: Sequence[Mapping[str, Sequence[float]]],
    *,
    confidence: float = 0.95,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> list[tuple[float, float]]:
    """(low, high) of each student's gap, by resampling problems within each domain.

    per_problem: for each student, domain -> mean score of each problem, in the same problem order for all students
    (a resample takes the same problems for everyone, since one problem is easy or hard for all). Seeded.
    """
    check_confidence(confidence)
    domains = require_same_keys(per_problem, "gap interval")
    columns = {name: _aligned_columns(per_problem, name) for name in domains}
    draws: dict[str, list[list[float]]] = {
        name: [
            [sum(scores[at] for at in picked) / len(picked) for scores in columns[name]]
            # A stream of its own for each domain, and in it the same problems for every student.
            for picked in resampled_positions(len(columns[name][0]), seed + offset, resamples)
        ]
        for offset, name in enumerate(domains)
    }
    by_draw = [_float_shortfalls([draws[name][number] for name in domains]) for number in range(resamples)]
    return [percentile_interval([gap[i] for gap in by_draw], confidence) for i in range(len(per_problem))]


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


def _float_shortfalls(domain_scores: Sequence[Sequence[float]]) -> list[float]:
    """The same in floats, enough for an interval. domain_scores: one row a domain, one column a student."""
    bests = [max(row) for row in domain_scores]
    students = range(len(domain_scores[0]))
    return [
        sum((best - row[i]) / best for best, row in zip(bests, domain_scores, strict=True) if best) for i in students
    ]


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
