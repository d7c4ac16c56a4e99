"""What counts as a score, and intervals: by resampling for scores, Wilson's for rates over revisions. Pure.

A score is finite and not negative; anything else is an error.

Revisions come in groups that share their problem, and often their feedback, so they are not independent. They are
counted as if all of one group always fell the same way, which is the worst case: n revisions weigh as much as
`effective_count` independent ones.
"""

import math
import random
from collections.abc import Iterable, Sequence
from statistics import NormalDist

from shared.errors import OpcodError

RESAMPLES = 2000


class ScoreError(OpcodError, ValueError):
    """A score, reward or count that is missing, not a number, or out of its range."""


def checked_score(value: float, what: str) -> float:
    """The value itself. Raises ScoreError, naming `what`, unless it is finite and not negative."""
    if not math.isfinite(value) or value < 0:
        raise ScoreError(
            f"{what}: expected a finite score of at least 0, got {value!r}; evaluate again before using it"
        )
    return value


def require_same_keys(rows: Sequence[Iterable[str]], what: str) -> list[str]:
    """The keys (domains) shared by all rows, in the first row's order; ScoreError if a row lacks or adds one."""
    keys = list(rows[0]) if rows else []
    for position, row in enumerate(rows):
        if set(row) != set(keys):
            raise ScoreError(
                f"{what}: expected the domains {sorted(keys)} for every student, got {sorted(row)} for student "
                f"{position}; score every student on every domain"
            )
    return keys


def check_confidence(confidence: float) -> None:
    """ScoreError unless confidence lies strictly between 0 and 1."""
    if not 0 < confidence < 1:
        raise ScoreError(f"confidence: expected a value between 0 and 1 (such as 0.95), got {confidence!r}")


def percentile_interval(draws: Sequence[float], confidence: float) -> tuple[float, float]:
    """The central `confidence` share of the draws: (low, high), nearest rank."""
    check_confidence(confidence)
    ordered = sorted(draws)
    tail = (1 - confidence) / 2
    last = len(ordered) - 1
    return ordered[math.floor(tail * last)], ordered[math.ceil((1 - tail) * last)]


def resampled_positions(count: int, seed: int, resamples: int = RESAMPLES) -> Iterable[list[int]]:
    """`resamples` draws of `count` positions out of range(count), with replacement; the same for the same seed."""
    draw = random.Random(seed)
    everyone = range(count)
    for _ in range(resamples):
        yield draw.choices(everyone, k=count)


def effective_count(total: int, squares: int) -> float:
    """Kish's effective number (Σm)² / Σm² for groups of m revisions each: their number where all are equally large.

    total: Σm, squares: Σm² over the groups. 0 for nothing.
    """
    if total < 0 or squares < total:
        raise ScoreError(f"effective count: expected 0 <= sum <= sum of squares, got {total} and {squares}")
    return total * total / squares if squares else 0.0


def wilson_interval(rate: float, count: float, confidence: float = 0.95) -> tuple[float, float] | None:
    """Two-sided Wilson score interval of a rate seen over `count` (effective) trials; None over nothing."""
    check_confidence(confidence)
    return _wilson(rate, count, NormalDist().inv_cdf((1 + confidence) / 2))


def wilson_lower(rate: float, count: float, confidence: float = 0.95) -> float | None:
    """Lower end of the one-sided Wilson score interval; None over nothing."""
    check_confidence(confidence)
    ends = _wilson(rate, count, NormalDist().inv_cdf(confidence))
    return ends[0] if ends else None


def _wilson(rate: float, count: float, z: float) -> tuple[float, float] | None:
    if not 0 <= rate <= 1 or count < 0:
        raise ScoreError(f"interval: expected a rate in [0, 1] over a count of at least 0, got {rate} over {count}")
    if count == 0:
        return None
    spread = z * math.sqrt(rate * (1 - rate) / count + z * z / (4 * count * count))
    middle, scale = rate + z * z / (2 * count), 1 + z * z / count
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)
