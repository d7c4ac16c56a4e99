"""Importance weights between engine and trainer, and the samples that must be rejected."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from services.trainer.step.losses import importance_diagnostics, importance_weights, usable_samples
from shared.errors import ConfigError

torch.set_num_threads(1)

logprob = st.floats(-60, 0)


@settings(max_examples=100)
@given(st.lists(st.tuples(logprob, logprob, st.booleans()), min_size=1, max_size=12), st.floats(0.5, 10))
def test_weights_are_the_formula(tokens: list[tuple[float, float, bool]], clip: float) -> None:
    trainer, rollout, mask = (torch.tensor([column]) for column in zip(*tokens, strict=True))
    weights = importance_weights(trainer.double(), rollout.double(), mask, clip=clip)
    for weight, a, b, m in zip(weights[0].tolist(), trainer[0].tolist(), rollout[0].tolist(), mask[0], strict=True):
        wanted = min(clip, math.exp(max(-20.0, min(20.0, a - b)))) if m else 0.0
        assert weight == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize(
    ("difference", "weight"),
    [
        (0.0, 1.0),
        (math.log(1.5), 1.5),
        (math.log(2.5), 2.0),
        (-1.0, math.exp(-1)),
        (-30.0, math.exp(-20)),
        (30.0, 2.0),
    ],
)
def test_only_the_upper_end_is_cut(difference: float, weight: float) -> None:
    trainer = torch.tensor([[-40.0 + difference]], dtype=torch.float64)
    rollout = torch.tensor([[-40.0]], dtype=torch.float64)
    assert importance_weights(trainer, rollout, torch.ones(1, 1)).item() == pytest.approx(weight)


def test_weights_are_detached_and_fp32() -> None:
    trainer = torch.full((1, 2), -1.0, dtype=torch.bfloat16, requires_grad=True)
    weights = importance_weights(trainer, torch.full((1, 2), -1.5), torch.ones(1, 2))
    assert not weights.requires_grad
    assert weights.dtype is torch.float32
    assert weights.tolist() == [pytest.approx([math.exp(0.5)] * 2)]


@pytest.mark.parametrize("side", ["trainer", "rollout"])
@pytest.mark.parametrize("bad", [math.nan, -math.inf, math.inf, 5.0])
def test_a_bad_log_prob_rejects_its_sample_and_never_weighs_one(side: str, bad: float) -> None:
    logprobs = {"trainer": torch.full((3, 2), -1.0), "rollout": torch.full((3, 2), -1.0)}
    logprobs[side][1, 0] = bad
    mask = torch.ones(3, 2)
    usable = usable_samples(logprobs["trainer"], logprobs["rollout"], mask)
    assert usable.tolist() == [True, False, True]
    for refuses in (importance_weights, importance_diagnostics):
        with pytest.raises(ConfigError, match=r"rows \[1\] lack a usable log-prob"):
            refuses(logprobs["trainer"], logprobs["rollout"], mask)
    kept = importance_weights(logprobs["trainer"], logprobs["rollout"], mask * usable.unsqueeze(1))
    assert kept.tolist() == [[1.0, 1.0], [0.0, 0.0], [1.0, 1.0]]


def test_a_bad_log_prob_under_the_mask_is_ignored() -> None:
    trainer, rollout = torch.tensor([[-1.0, math.nan]]), torch.tensor([[-1.0, -math.inf]])
    mask = torch.tensor([[1, 0]])
    assert usable_samples(trainer, rollout, mask).tolist() == [True]
    assert importance_weights(trainer, rollout, mask).tolist() == [[1.0, 0.0]]
    diagnostics = importance_diagnostics(trainer, rollout, mask)
    assert diagnostics is not None
    assert diagnostics.tokens == 1


def test_diagnostics() -> None:
    trainer = torch.tensor([[-1.0, -1.0, -5.0, -9.0]], dtype=torch.float64)
    rollout = torch.tensor([[-1.0, -2.0, -4.0, -1.0]], dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 0]])
    diagnostics = importance_diagnostics(trainer, rollout, mask)
    weights = [1.0, 2.0, math.exp(-1)]
    assert diagnostics is not None
    assert diagnostics.tokens == 3
    assert diagnostics.mean_abs_log_ratio == pytest.approx(2 / 3)
    assert diagnostics.clipped_share == pytest.approx(1 / 3)
    assert diagnostics.effective_sample_share == pytest.approx(sum(weights) ** 2 / 3 / sum(w * w for w in weights))


def test_agreement_has_full_effective_sample_share() -> None:
    same = -torch.rand(2, 5)
    diagnostics = importance_diagnostics(same, same, torch.ones(2, 5))
    assert diagnostics is not None
    assert diagnostics.mean_abs_log_ratio == 0.0
    assert diagnostics.clipped_share == 0.0
    assert diagnostics.effective_sample_share == pytest.approx(1.0)


def test_diagnostics_of_nothing_are_none() -> None:
    nothing = torch.full((1, 2), math.nan)
    assert importance_diagnostics(nothing, nothing, torch.zeros(1, 2)) is None


@pytest.mark.parametrize("clip", [0.0, -1.0, math.nan, math.inf])
def test_clip_is_checked(clip: float) -> None:
    with pytest.raises(ConfigError, match="clip must be positive and finite"):
        importance_weights(torch.zeros(1, 1), torch.zeros(1, 1), torch.ones(1, 1), clip=clip)


@pytest.mark.parametrize(
    ("rollout", "message"),
    [
        (torch.zeros(2, 3), r"one shape .* \[2, 2\], \[2, 3\], \[2, 2\]"),
        (torch.zeros(2, 2, dtype=torch.long), "must be floating point"),
    ],
)
def test_shapes_and_types_are_checked(rollout: torch.Tensor, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        importance_weights(torch.zeros(2, 2), rollout, torch.ones(2, 2))
