"""Capabilities and advantages of students that share their rollouts, against the paper's equations."""

from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.method.sharing import RATIO_BOUNDS, capability, capability_ratio, shared_advantages

rewards = st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=8)


def test_a_capability_is_the_mean_of_the_last_steps() -> None:
    assert capability([1.0, 0.5, 0.25], window=2) == 0.375
    assert capability([0.5], window=5) == 0.5


@pytest.mark.parametrize(
    ("source", "learner", "ratio"),
    [
        (0.6, 0.3, 2.0),
        (0.3, 0.6, 0.5),
        (0.9, 0.01, 10.0),
        (0.01, 0.9, 0.1),
        (0.5, 0.0, 10.0),
        (0.0, 0.5, 0.1),
        (0, 0, 1),
    ],
)
def test_a_ratio_of_capabilities_is_bounded(source: float, learner: float, ratio: float) -> None:
    assert capability_ratio(source, learner) == pytest.approx(ratio)


def test_the_baseline_scales_foreign_rewards_to_the_learner_s_capability() -> None:
    """By hand: a peer twice as able; its rewards count half in the baseline."""
    own, foreign = shared_advantages([1.0, 0.0], [1.0, 1.0], ratio=2.0)
    deviation = sqrt(3 * 0.25**2 + 0.75**2) / sqrt(3)
    assert own == pytest.approx([0.5 / deviation, -0.5 / deviation], rel=1e-5)
    assert foreign == pytest.approx([0.5 / deviation] * 2, rel=1e-5)


def test_a_baseline_above_every_reward_falls_back_on_the_learner_s_own_mean() -> None:
    own, foreign = shared_advantages([1.0, 0.0], [1.0, 1.0], ratio=0.1)
    assert own[0] == foreign[0] == -own[1] > 0


@given(own=rewards, foreign=rewards, ratio=st.floats(*RATIO_BOUNDS))
def test_right_is_never_worth_less_than_wrong_and_equal_rewards_are_worth_nothing(
    own: list[float], foreign: list[float], ratio: float
) -> None:
    found = [*zip(own, shared_advantages(own, foreign, ratio)[0], strict=True)]
    found += zip(foreign, shared_advantages(own, foreign, ratio)[1], strict=True)
    right = [advantage for reward, advantage in found if reward == 1.0]
    wrong = [advantage for reward, advantage in found if reward == 0.0]
    if right and wrong:
        assert min(right) > max(wrong)
        assert min(right) >= 0 >= max(wrong)
    else:
        assert {advantage for _, advantage in found} == {0.0}
