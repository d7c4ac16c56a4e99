"""The losses a step can train on: self-distillation, which is the method, and GRPO, the baseline.

Both end in `aggregate`, so both have one normalisation, and both keep masked tokens out of values and
gradients. The parts live beside this file (divergence, aggregation, importance) and are offered here by name.
"""

import math

import torch
from torch import Tensor

from services.trainer.aggregation import (
    Aggregation,
    active_share,
    aggregate,
    batch_denominator,
    effective_mask,
)
from services.trainer.importance import (
    LOG_RATIO_MAX,
    ImportanceDiagnostics,
    importance_diagnostics,
    importance_weights,
    usable_samples,
)
from services.trainer.step.divergence import check_logits, token_divergence
from shared.errors import ConfigError

__all__ = [
    "Aggregation",
    "ImportanceDiagnostics",
    "active_share",
    "aggregate",
    "batch_denominator",
    "group_advantages",
    "grpo_loss",
    "importance_diagnostics",
    "importance_weights",
    "self_distillation_loss",
    "token_divergence",
    "usable_samples",
]


def self_distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    token_mask: Tensor,
    sample_mask: Tensor,
    *,
    alpha: float = 0.5,
    top_k: int | None = 100,
    tail: bool = True,
    weights: Tensor | None = None,
    aggregation: Aggregation = "seq_mean",
    multiplicity: Tensor | None = None,
    denominator: float | None = None,
) -> Tensor:
    """The method's loss, a scalar: `aggregate` over `token_divergence`, with importance weights.

    Shapes: logits [B, T, V]; token_mask and weights [B, T]; sample_mask and multiplicity [B]. token_mask
    covers the response tokens with their end-of-sequence token; sample_mask is 0 where the self-teacher has
    neither a demonstration nor feedback. The teacher's logits get no gradient; masked positions may hold
    anything. Micro-batches: pass `batch_denominator` of the whole batch as `denominator` and sum the losses
    (see `aggregate`).
    Raises ConfigError for unusable arguments.
    Source: paper eq. 1; SDPO core_algos.py::compute_self_distillation_loss.
    """
    check_logits(student_logits, teacher_logits)
    mask = effective_mask(token_mask, sample_mask)
    divergence = token_divergence(student_logits, teacher_logits, alpha=alpha, top_k=top_k, tail=tail, token_mask=mask)
    return aggregate(
        divergence,
        token_mask,
        sample_mask,
        weights=weights,
        aggregation=aggregation,
        multiplicity=multiplicity,
        denominator=denominator,
    )


def group_advantages(rewards: Tensor) -> Tensor:
    """A_j = r_j - mean of its group, not divided by the deviation; a group of one keeps its reward (mean 0).

    rewards [..., n], the last dimension one group; the result has its shape, in fp32 (float64 for float64
    rewards).
    Raises ConfigError for an empty group or a reward that is not finite. Source: SDPO's GRPO baseline.
    """
    if rewards.dim() == 0 or rewards.shape[-1] == 0:
        raise ConfigError(f"rewards must have shape [..., group] with a group of 1 or more, got {list(rewards.shape)}")
    if not bool(torch.isfinite(rewards).all()):
        raise ConfigError("rewards must all be finite; grade every rollout before its group is used")
    graded = rewards.to(torch.promote_types(rewards.dtype, torch.float32))
    if graded.shape[-1] == 1:
        return graded.clone()
    return graded - graded.mean(-1, keepdim=True)


def grpo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    token_mask: Tensor,
    sample_mask: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    dual_clip: float = 3.0,
    weights: Tensor | None = None,
    aggregation: Aggregation = "seq_mean",
    multiplicity: Tensor | None = None,
    denominator: float | None = None,
) -> Tensor:
    """Clipped policy loss of the GRPO baseline, a scalar; no KL term, no entropy, no critic.

    Per token, with ratio = exp(clamp(logprobs - old_logprobs, ±20)): max(-A·ratio, -A·clip(ratio, 1-low,
    1+high)), and for A < 0 at most -A·dual_clip; then weights and `aggregate`, so it keeps GRPO's 1/length.
    With one update a batch old_logprobs is logprobs.detach(), the ratio is 1 and nothing is clipped.

    Shapes: logprobs, old_logprobs, token_mask, weights [B, T]; advantages, sample_mask, multiplicity [B].
    old_logprobs and advantages are detached. Raises ConfigError for unusable arguments.
    """
    _check_grpo(logprobs, old_logprobs, advantages, token_mask)
    _check_clips(clip_low, clip_high, dual_clip)
    mask = effective_mask(token_mask, sample_mask)
    dtype = torch.promote_types(logprobs.dtype, torch.float32)
    # Masked before exp, not after: the gradient of a masked NaN would be NaN.
    log_ratio = torch.where(mask, logprobs.to(dtype) - old_logprobs.detach().to(dtype), 0.0)
    ratio = log_ratio.clamp(-LOG_RATIO_MAX, LOG_RATIO_MAX).exp()
    advantage = advantages.detach().to(dtype).unsqueeze(1)
    clipped = ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    policy = torch.maximum(-advantage * ratio, -advantage * clipped)
    capped = torch.minimum(policy, -advantage * dual_clip)
    return aggregate(
        torch.where(advantage < 0, capped, policy),
        token_mask,
        sample_mask,
        weights=weights,
        aggregation=aggregation,
        multiplicity=multiplicity,
        denominator=denominator,
    )


def _check_grpo(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, token_mask: Tensor) -> None:
    if logprobs.shape != token_mask.shape or old_logprobs.shape != token_mask.shape:
        raise ConfigError(
            f"logprobs and old_logprobs must have the shape of token_mask {list(token_mask.shape)}, got "
            f"{list(logprobs.shape)} and {list(old_logprobs.shape)}"
        )
    if advantages.shape != token_mask.shape[:1]:
        raise ConfigError(f"advantages must be one a sample, [{len(token_mask)}], got {list(advantages.shape)}")


def _check_clips(clip_low: float, clip_high: float, dual_clip: float) -> None:
    if not 0.0 <= clip_low <= 1.0:
        raise ConfigError(f"clip_low must lie in [0, 1], got {clip_low!r}")
    if not (math.isfinite(clip_high) and clip_high >= 0.0):
        raise ConfigError(f"clip_high must be finite and not negative, got {clip_high!r}")
    if not (math.isfinite(dual_clip) and dual_clip > 1.0):
        raise ConfigError(f"dual_clip must be finite and above 1, got {dual_clip!r}")
