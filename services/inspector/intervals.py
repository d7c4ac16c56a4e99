"""Intervals of scores, worked out once each: a score never changes, and resampling takes a while."""

from functools import lru_cache

from shared.contracts.ids import seed_of
from shared.contracts.run import Score
from shared.method.metrics import bootstrap_interval


def score_interval(score: Score, domain: str) -> tuple[float, float]:
    """95 %, over problems, as the run's report has it: the same problems resampled with the same seed."""
    shares = tuple(count / score.samples for count in score.correct[domain])
    return _interval(shares, seed_of(score.student, domain, "report"))


@lru_cache(maxsize=4096)
def _interval(shares: tuple[float, ...], seed: int) -> tuple[float, float]:
    return bootstrap_interval(shares, seed=seed)
