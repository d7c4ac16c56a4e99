"""The figures that reports, pages and evaluations have in common, so that each says the same number. Pure.

A score's interval resamples a student's problems in a domain with one seed, whoever asks. A rate over nothing is None.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache

from pydantic import BaseModel, ConfigDict

from shared.contracts.diagnostics import RevisionCount
from shared.contracts.ids import seed_of
from shared.contracts.run import Score, Split, Tally
from shared.method.intervals import effective_count, wilson_interval
from shared.method.metrics import bootstrap_interval

Interval = tuple[float, float]

DELIVERED = frozenset({"match", "unanchored"})
"""Verdicts after which the student sees the feedback."""


class Part(BaseModel):
    """Of a report, a comparison or an evaluation."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Rate(Part):
    """`changed` of `total`, with the 95 % interval; revisions of one group count as dependent."""

    changed: int
    total: int
    rate: float | None
    interval: Interval | None


def breaks(rows: Sequence[RevisionCount]) -> Rate:
    """Right rollouts whose revision is wrong."""
    return _rate(sum(r.broke for r in rows), sum(r.right for r in rows), sum(r.right_squares for r in rows))


def fixes(rows: Sequence[RevisionCount]) -> Rate:
    """Wrong rollouts whose revision is right."""
    return _rate(sum(r.fixed for r in rows), sum(r.wrong for r in rows), sum(r.wrong_squares for r in rows))


def _rate(changed: int, total: int, squares: int) -> Rate:
    rate = changed / total if total else None
    interval = wilson_interval(rate, effective_count(total, squares)) if rate is not None else None
    return Rate(changed=changed, total=total, rate=rate, interval=interval)


def delivered(verdicts: Iterable[tuple[str, int]]) -> int:
    """How many feedbacks a student saw. verdicts: words, and how often each was given."""
    return sum(count for verdict, count in verdicts if verdict in DELIVERED)


def engine_speeds(tally: Tally) -> dict[str, float]:
    """Output tokens a second of engine time, by kind of job."""
    return {kind: tally.output_tokens.get(kind, 0) / s for kind, s in tally.engine_seconds.items() if s > 0}


def first_and_last_test(scores: Iterable[Score], student: str) -> tuple[Score, Score] | None:
    """None for a student that was tested less than twice."""
    tests = [score for score in scores if score.student == student and score.split is Split.TEST]
    return (tests[0], tests[-1]) if len(tests) > 1 else None


def problem_shares(score: Score, domain: str) -> list[float]:
    """Of each problem, the share of its samples that is right."""
    return [count / score.samples for count in score.correct[domain]]


def score_interval(score: Score, domain: str) -> Interval:
    return mean_interval(score.student, domain, problem_shares(score, domain))


def mean_interval(student: str, domain: str, shares: Sequence[float]) -> Interval:
    """95 %, of the mean over problems."""
    return _mean_interval(tuple(shares), resampling_seed(student, domain))


def resampling_seed(student: str, domain: str) -> int:
    return seed_of(student, domain, "report")


# a score never changes, pages ask for it again and again, and resampling takes a while
@lru_cache(maxsize=4096)
def _mean_interval(shares: tuple[float, ...], seed: int) -> Interval:
    return bootstrap_interval(shares, seed=seed)
