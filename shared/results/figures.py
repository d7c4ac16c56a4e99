"""The figures that reports, pages and evaluations have in common, so that each says the same number. Pure.

A score's interval resamples a student's problems in a domain with one seed, whoever asks. A rate over nothing is None.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, TypeVar

from pydantic import BaseModel, ConfigDict

from shared.contracts.diagnostics import RevisionCount
from shared.contracts.ids import parse_version, seed_of
from shared.contracts.run import Score, Split, Tally
from shared.method.intervals import effective_count, wilson_interval
from shared.method.metrics import bootstrap_interval

Interval = tuple[float, float]

DELIVERED = frozenset({"match", "unanchored"})
"""Verdicts after which the student sees the feedback."""


class Part(BaseModel):
    """Of a report, a comparison or an evaluation."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class Share:
    """`part` of `whole`; over nothing it has no value."""

    part: int
    whole: int

    @property
    def value(self) -> float | None:
        return self.part / self.whole if self.whole else None


class Rate(Part):
    """`changed` of `total`, with the 95 % interval; revisions of one group count as dependent."""

    changed: int
    total: int
    rate: float | None
    interval: Interval | None


class Revisions(Protocol):
    """Revised rollouts, counted: all shown the feedback, or none of them.

    Of `right` ones `broke` got wrong, of `wrong` ones `fixed` got right.
    """

    @property
    def told(self) -> bool: ...

    @property
    def right(self) -> int: ...

    @property
    def broke(self) -> int: ...

    @property
    def wrong(self) -> int: ...

    @property
    def fixed(self) -> int: ...


Counted = TypeVar("Counted", bound=Revisions)


def seeing(rows: Iterable[Counted]) -> list[Counted]:
    """The revisions whose prompt held the tutor's feedback: a student's break- and fix-rate are of these."""
    return [row for row in rows if row.told]


def broken(rows: Iterable[Revisions]) -> Share:
    """The break-rate: of the right rollouts, those whose revision is wrong.

    Over every revision in `rows`: what a student's feedback did is asked of those whose prompt held it (`seeing`), the
    control of the others.
    """
    counted = list(rows)
    return Share(sum(row.broke for row in counted), sum(row.right for row in counted))


def fixed(rows: Iterable[Revisions]) -> Share:
    """The fix-rate: of the wrong rollouts, those whose revision is right. Rows as in `broken`."""
    counted = list(rows)
    return Share(sum(row.fixed for row in counted), sum(row.wrong for row in counted))


def breaks(rows: Sequence[RevisionCount]) -> Rate:
    """`broken`, with its interval."""
    return _rate(broken(rows), sum(row.right_squares for row in rows))


def fixes(rows: Sequence[RevisionCount]) -> Rate:
    """`fixed`, with its interval."""
    return _rate(fixed(rows), sum(row.wrong_squares for row in rows))


def _rate(share: Share, squares: int) -> Rate:
    rate = share.value
    # The revisions of a group share problem and feedback, so that m of them do not weigh as much as m groups.
    interval = wilson_interval(rate, effective_count(share.whole, squares)) if rate is not None else None
    return Rate(changed=share.part, total=share.whole, rate=rate, interval=interval)


def delivered(verdicts: Iterable[tuple[str, int]]) -> Share:
    """Of all feedbacks, those a student saw. verdicts: words, and how often each was given."""
    counted = list(verdicts)
    return Share(sum(count for word, count in counted if word in DELIVERED), sum(count for _, count in counted))


class TaughtRow(Part):
    """What a tutor said about a student's answers in a domain, of a run with more than two students. kept: of
    `feedbacks`, those that the student was shown."""

    tutor: str
    student: str
    domain: str
    feedbacks: int
    kept: int


def taught_rows(tallies: Mapping[str, Tally]) -> list[TaughtRow]:
    """By tutor, tutee and domain; none of a run of two students, where it is one tutor's verdicts."""
    rows = [TaughtRow(student=name, **row.model_dump()) for name, tally in tallies.items() for row in tally.taught]
    return sorted(rows, key=lambda row: (row.tutor, row.student, row.domain))


def engine_speeds(tally: Tally) -> dict[str, float]:
    """Output tokens a second of engine time, by kind of job."""
    # A job's seconds are its share of the engine's time: what an engine waits for work is in none of them.
    return {kind: tally.output_tokens.get(kind, 0) / s for kind, s in tally.engine_seconds.items() if s > 0}


def first_and_last_test(scores: Iterable[Score], student: str) -> tuple[Score, Score] | None:
    """None for a student that was tested less than twice."""
    tests = [score for score in scores if score.student == student and score.split is Split.TEST]
    # The state's scores stand in the order in which they were measured.
    return (tests[0], tests[-1]) if len(tests) > 1 else None


def best_validated(scores: Iterable[Score], student: str) -> Score | None:
    """The student's best validation score, by the mean over its domains; of equals that of the newest version. None
    before any."""
    validated = [score for score in scores if score.student == student and score.split is Split.VALIDATION]
    return max(
        validated,
        key=lambda s: (s.mean_over_domains, parse_version(s.version)[1]),
        default=None,
    )


def live_validated(scores: Iterable[Score], student: str, live: str) -> Score | None:
    """The student's validation score of its version `live`, or the newest one while that version is not validated. None
    before any."""
    validated = [score for score in scores if score.student == student and score.split is Split.VALIDATION]
    of_live = [score for score in validated if score.version == live]
    return next(reversed(of_live or validated), None)


def problem_shares(score: Score, domain: str) -> list[float]:
    """Of each problem, the share of its samples that is right."""
    # The problem is the unit that is resampled: samples of one problem are not independent of each other.
    return [count / score.samples for count in score.correct[domain]]


def score_interval(score: Score, domain: str) -> Interval:
    return mean_interval(score.student, domain, problem_shares(score, domain))


def mean_interval(student: str, domain: str, shares: Sequence[float]) -> Interval:
    """95 %, of the mean over problems."""
    # A tuple, since the cache needs a key that can be hashed.
    return _mean_interval(tuple(shares), resampling_seed(student, domain))


def resampling_seed(student: str, domain: str) -> int:
    # By name, so that the interval of a score is the same one in every report, page and evaluation.
    return seed_of(student, domain, "report")


# A score never changes, pages ask for it again and again, and resampling (2000 draws) takes a while.
@lru_cache(maxsize=4096)
def _mean_interval(shares: tuple[float, ...], seed: int) -> Interval:
    return bootstrap_interval(shares, seed=seed)
