"""The advantages of the GRPO baseline: a rollout's reward against its group (method 4)."""

from collections.abc import Sequence
from statistics import mean

from shared.method.scores import checked_score


def group_advantages(rewards: Sequence[float]) -> list[float]:
    """A_j = r_j - mean of its group, not divided by the deviation; a lone rollout keeps its reward (mean 0).

    Exactly 0 for all where all rewards are equal: such a group has no gradient. Raises ScoreError for a reward that
    is missing or not finite. Source: SDPO's GRPO baseline.
    """
    graded = [checked_score(reward, f"reward {j}") for j, reward in enumerate(rewards)]
    middle = mean(graded) if len(graded) > 1 else 0.0
    return [reward - middle for reward in graded]
