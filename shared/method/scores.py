"""What counts as a score, and intervals by resampling. A score is finite and not negative; the rest is an error."""

import math
import random
from collections.abc import Iterable, Sequence

from shared.errors import OpcodError

RESAMPLES = 2000


class ScoreError(OpcodError, ValueError):
    """A score, reward or count that is missing, not a number, or out of its range."""


def checked_score(value: float, what: str) -> float:
    """The value itself. Raises ScoreError, naming `what`, unless it is finite and not negative."""
    # NaN passes every comparison as false: unchecked it would read as "no gap".
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
    # Nearest rank, outwards at both ends: an interval may be a little too wide, never too narrow.
    ordered = sorted(draws)
    tail = (1 - confidence) / 2
    last = len(ordered) - 1
    return ordered[math.floor(tail * last)], ordered[math.ceil((1 - tail) * last)]


def resampled_positions(count: int, seed: int, resamples: int = RESAMPLES) -> Iterable[list[int]]:
    """`resamples` draws of `count` positions out of range(count), with replacement; the same for the same seed."""
    # Its own generator: the global one belongs to whoever calls.
    draw = random.Random(seed)
    everyone = range(count)
    for _ in range(resamples):
        yield draw.choices(everyone, k=count)
