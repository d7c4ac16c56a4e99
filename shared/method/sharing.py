"""What two students that share their rollouts make of each other's: HACPO's rules that need no model. Pure.

Source: *Heterogeneous Agent Collaborative Reinforcement Learning* (arXiv 2603.02604, sections 3.1 and 3.2, equations 5
and 6), as its authors' code computes them, with its guards (zzx-peter/HACRL-code at 81e6c64,
recipe/hacpo/hacpo_core_algos.py).

What always holds: a group whose rewards are all equal has no advantages, however unlike the students are; capabilities
enter as ratios within `RATIO_BOUNDS` only.
"""

from collections.abc import Sequence
from statistics import fmean, stdev

RATIO_BOUNDS = (0.1, 10.0)
"""Of the authors' code: a student that has solved nothing yet would make a ratio infinite."""

EPSILON = 1e-6
"""Added to the deviation, as in the authors' code."""


def capability(rates: Sequence[float], window: int) -> float:
    """How able a student is: the mean reward of its own rollouts, over the last `window` steps. rates: by step."""
    return fmean(rates[-window:])


def capability_ratio(source: float, learner: float) -> float:
    """P_source / P_learner: what a rollout of `source` weighs to the learner. 1 for its own."""
    low, high = RATIO_BOUNDS
    if learner <= 0:
        return 1.0 if source <= 0 else high
    return min(max(source / learner, low), high)


def shared_advantages(own: Sequence[float], foreign: Sequence[float], ratio: float) -> tuple[list[float], list[float]]:
    """Advantages of a problem's own and foreign rollouts, from their rewards in [0, 1].

    A = (r - baseline) / (deviation + EPSILON); the baseline is the mean of the rewards of both, each as the learner
    would have had it: divided by its source's `ratio` to the learner (`capability_ratio`), which for its own is 1. The
    deviation is that of all rewards as they are.
    """
    rewards = [*own, *foreign]
    if min(rewards) == max(rewards):
        return [0.0] * len(own), [0.0] * len(foreign)
    baseline = fmean([*own, *(reward / ratio for reward in foreign)])
    # No reward is above 1: over it, even right answers would be discouraged. The authors fall back on the own mean.
    if baseline > 1.0:
        baseline = fmean(own)
    scale = stdev(rewards) + EPSILON
    return [(reward - baseline) / scale for reward in own], [(reward - baseline) / scale for reward in foreign]
