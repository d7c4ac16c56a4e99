"""Advantages of the GRPO baseline: the reward less the group's mean, and nothing else."""

import math

import pytest

from shared.method.advantages import group_advantages
from shared.method.scores import ScoreError


@pytest.mark.parametrize(
    ("rewards", "advantages"),
    [
        ([1.0, 0.0, 0.0, 0.0], [0.75, -0.25, -0.25, -0.25]),
        ([1.0] * 4, [0.0] * 4),
        ([0.0] * 4, [0.0] * 4),
        ([0.1] * 3, [0.0] * 3),
        ([1.0], [1.0]),
        ([0.0], [0.0]),
        ([], []),
    ],
)
def test_the_group_s_mean_is_subtracted_and_a_lone_reward_stays(rewards: list[float], advantages: list[float]) -> None:
    assert group_advantages(rewards) == advantages


@pytest.mark.parametrize("reward", [math.nan, math.inf])
def test_a_missing_reward_is_an_error(reward: float) -> None:
    with pytest.raises(ScoreError, match="reward 1"):
        group_advantages([1.0, reward])
