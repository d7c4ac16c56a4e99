"""Intervals of rates over revisions, which come in groups and so are not independent. Pure.

The revisions of a group share their problem, and often their feedback. They are counted as if all of one group
always fell the same way, which is the worst case: n revisions weigh as much as `effective_count` independent ones.
"""

import math
from statistics import NormalDist

from shared.method.scores import ScoreError, check_confidence


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
    # Wilson (1927): the rates that a test at z would not reject. Unlike the normal interval it stays within [0, 1] and
    # has a width at rates of 0 and 1.
    spread = z * math.sqrt(rate * (1 - rate) / count + z * z / (4 * count * count))
    middle, scale = rate + z * z / (2 * count), 1 + z * z / count
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)
