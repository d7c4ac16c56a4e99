"""The GRPO baseline against its formulas, token by token in Python floats."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from services.trainer.step.losses import batch_denominator, group_advantages, grpo_loss
from shared.errors import ConfigError

torch.set_num_threads(1)


def token_loss(new: float, old: float, advantage: float) -> float:
    ratio = math.exp(max(-20.0, min(20.0, new - old)))
    loss = max(-advantage * ratio, -advantage * max(0.8, min(1.28, ratio)))
    return min(loss, -3 * advantage) if advantage < 0 else loss


logprob = st.floats(-30, 0)


@settings(max_examples=100)
@given(st.lists(st.tuples(logprob, logprob), min_size=1, max_size=8), st.floats(-2, 2))
def test_value_and_gradient_are_the_formula(tokens: list[tuple[float, float]], advantage: float) -> None:
    new, old = (torch.tensor([column], dtype=torch.float64) for column in zip(*tokens, strict=True))
    new.requires_grad_()
    loss = grpo_loss(new, old, torch.tensor([advantage]), torch.ones(new.shape), torch.ones(1))
    advantage = torch.tensor(advantage).item()
    wanted = math.fsum(token_loss(a, b, advantage) for a, b in tokens) / len(tokens)
    assert loss.item() == pytest.approx(wanted, rel=1e-10, abs=1e-12)
    (slope,) = torch.autograd.grad(loss, new)
    for (a, b), got in zip(tokens, slope[0].tolist(), strict=True):
        if any(abs(math.exp(a - b) - kink) < 1e-3 * kink for kink in (0.8, 1.28, 3.0, math.exp(20), math.exp(-20))):
            continue
        step = 1e-6
        difference = token_loss(a + step, b, advantage) - token_loss(a - step, b, advantage)
        assert got * len(tokens) == pytest.approx(difference / (2 * step), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.0, 1.0, -1.0, -1.0),
        (1.0, -1.0, 1.0, 1.0),
        (1.27, 1.0, -1.27, -1.27),
        (1.5, 1.0, -1.28, 0.0),
        (0.5, 1.0, -0.5, -0.5),
        (0.5, -1.0, 0.8, 0.0),
        (2.0, -1.0, 2.0, 2.0),
        (5.0, -1.0, 3.0, 0.0),
    ],
)
def test_clips(ratio: float, advantage: float, loss: float, slope: float) -> None:
    old = torch.tensor([[-3.0]], dtype=torch.float64)
    new = (old + math.log(ratio)).requires_grad_()
    value = grpo_loss(new, old, torch.tensor([advantage]), torch.ones(1, 1), torch.ones(1))
    (got,) = torch.autograd.grad(value, new)
    assert value.item() == pytest.approx(loss)
    assert got.item() == pytest.approx(slope)


def test_a_ratio_of_one_is_the_plain_policy_gradient() -> None:
    new = torch.tensor([[-1.0, -2.0], [-1.0, -3.0]], requires_grad=True)
    advantages = torch.tensor([0.5, -0.5])
    loss = grpo_loss(new, new.detach(), advantages, torch.tensor([[1, 1], [1, 0]]), torch.ones(2))
    torch.autograd.backward(loss)
    assert new.grad is not None
    assert new.grad.tolist() == [pytest.approx([-0.125, -0.125]), pytest.approx([0.25, 0.0])]


def test_old_log_probs_and_advantages_get_no_gradient() -> None:
    new, old = torch.full((1, 1), -1.0, requires_grad=True), torch.full((1, 1), -1.1, requires_grad=True)
    advantages = torch.ones(1, requires_grad=True)
    torch.autograd.backward(grpo_loss(new, old, advantages, torch.ones(1, 1), torch.ones(1)))
    assert old.grad is None
    assert advantages.grad is None


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_masked_log_probs_may_hold_anything(poison: float) -> None:
    new = torch.tensor([[-1.0, poison], [poison, poison]], requires_grad=True)
    old = torch.tensor([[-1.0, poison], [-1.0, -1.0]])
    weights = torch.tensor([[2.0, poison], [1.0, 1.0]])
    loss = grpo_loss(new, old, torch.ones(2), torch.tensor([[1, 0], [1, 1]]), torch.tensor([1, 0]), weights=weights)
    torch.autograd.backward(loss)
    assert loss.item() == pytest.approx(-1.0)
    assert new.grad is not None
    assert new.grad.tolist() == [[-1.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("aggregation", ["seq_mean", "seq_mean_active", "token_mean"])
def test_micro_batches_add_up(aggregation: str) -> None:
    generator = torch.Generator().manual_seed(0)
    new = -torch.rand(5, 3, generator=generator, dtype=torch.float64)
    old = -torch.rand(5, 3, generator=generator, dtype=torch.float64)
    tokens = torch.randint(0, 2, (5, 3), generator=generator)
    samples = torch.tensor([1, 1, 0, 1, 1])
    advantages = torch.randn(5, generator=generator, dtype=torch.float64)
    parts = (new, old, advantages, tokens, samples)
    whole = grpo_loss(*parts, aggregation=aggregation)  # type: ignore[arg-type]
    denominator = batch_denominator(tokens, samples, aggregation)  # type: ignore[arg-type]
    pieces = [
        grpo_loss(
            *(part[cut] for part in parts),
            aggregation=aggregation,  # type: ignore[arg-type]
            denominator=denominator,
        )
        for cut in (slice(0, 1), slice(1, 4), slice(4, 5))
    ]
    torch.testing.assert_close(torch.stack(pieces).sum(), whole)


def test_advantages_subtract_the_group_mean_and_nothing_else() -> None:
    rewards = torch.tensor([[1, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
    wanted = [[0.75, -0.25, -0.25, -0.25], [0.0] * 4, [0.0] * 4]
    assert group_advantages(rewards).tolist() == wanted
    assert group_advantages(rewards[0]).tolist() == wanted[0]


def test_a_group_of_one_keeps_its_reward() -> None:
    assert group_advantages(torch.tensor([1.0])).tolist() == [1.0]
    assert group_advantages(torch.tensor([[1.0], [0.0]])).tolist() == [[1.0], [0.0]]


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        (torch.zeros(2, 0), r"a group of 1 or more, got \[2, 0\]"),
        (torch.tensor(1.0), "a group of 1 or more"),
        (torch.tensor([1.0, math.nan]), "rewards must all be finite"),
    ],
)
def test_rewards_are_checked(rewards: torch.Tensor, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        group_advantages(rewards)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clip_low": 1.5}, "clip_low"),
        ({"clip_high": -0.1}, "clip_high"),
        ({"dual_clip": 1.0}, "dual_clip"),
        ({"old_logprobs": torch.zeros(2, 2)}, r"\[2, 3\] and \[2, 2\]"),
        ({"advantages": torch.zeros(3)}, r"one a sample, \[2\], got \[3\]"),
        ({"aggregation": "sum"}, "aggregation must be one of"),
    ],
)
def test_unusable_arguments_are_named(changes: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {
        "logprobs": torch.zeros(2, 3),
        "old_logprobs": torch.zeros(2, 3),
        "advantages": torch.zeros(2),
        "token_mask": torch.ones(2, 3),
        "sample_mask": torch.ones(2),
    }
    with pytest.raises(ConfigError, match=message):
        grpo_loss(**(arguments | changes))  # type: ignore[arg-type]


@settings(max_examples=100)
@given(st.lists(st.tuples(logprob, logprob), min_size=1, max_size=8), st.floats(0, 2))
def test_the_anchor_adds_its_divergence_and_its_gradient(tokens: list[tuple[float, float]], anchor: float) -> None:
    new, ema = (torch.tensor([column], dtype=torch.float64) for column in zip(*tokens, strict=True))
    new.requires_grad_()
    ones, advantages = torch.ones(new.shape), torch.zeros(1)
    loss = grpo_loss(new, new.detach(), advantages, ones, torch.ones(1), anchor=anchor, anchor_logprobs=ema)
    # k3 by hand: exp(d) - d - 1 with d = ema - new, so its slope in new is 1 - exp(d).
    distances = [b - a for a, b in tokens]
    wanted = math.fsum(anchor * (math.exp(min(d, 20.0)) - d - 1) for d in distances) / len(tokens)
    assert loss.item() == pytest.approx(wanted, rel=1e-10, abs=1e-12)
    (slope,) = torch.autograd.grad(loss, new)
    for d, got in zip(distances, slope[0].tolist(), strict=True):
        if abs(abs(d) - 20) > 1e-3:
            wanted = anchor * (1 - math.exp(d) if abs(d) < 20 else 1)
            assert got * len(tokens) == pytest.approx(wanted, rel=1e-9, abs=1e-9)
