"""From per-token values to the number that a step trains on: masks, means, importance weights, and the GRPO loss.

Self-distillation, which is the method, averages the divergence of `divergence.py`; GRPO, the baseline, its policy
loss (`grpo_loss`). Both end in `aggregate`, so both have one normalisation.

What always holds:
- with one `denominator`, taken over the whole batch, the values (and so the gradients) of the micro-batches add up to
  those of the batch in one piece;
- a masked value never reaches the sum, not even as NaN times zero;
- importance weights between the engine that sampled and the trainer that learns are detached, cut from above only, and
  0 outside the mask; a token without a usable log-prob never gets weight 1: its whole sample is to be rejected
  (`usable_samples`).
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from shared.errors import ConfigError

Aggregation = Literal["seq_mean", "seq_mean_active", "token_mean"]


def aggregate(
    values: Tensor,
    token_mask: Tensor,
    sample_mask: Tensor,
    *,
    weights: Tensor | None = None,
    aggregation: Aggregation = "seq_mean",
    denominator: float | None = None,
) -> Tensor:
    """Weighted mean of per-token values, a scalar; m below is token_mask · sample_mask.

    - seq_mean: (1/B) Σ_j [ Σ_t m·w·value / max(1, Σ_t m) ], B counting every sample, masked-out ones as 0.
      The step shrinks when few samples are active: that is intended.
    - seq_mean_active: the same, B counting only samples with an unmasked token.
    - token_mean: Σ m·w·value / Σ m.

    Contract of `denominator`: it is `batch_denominator(...)` of the whole batch, every micro-batch and shard
    of it together; then micro-batches are *summed*, never averaged. None means that this call holds the whole
    batch.

    Shapes: values, token_mask, weights [B, T]; sample_mask [B]. Weights are detached; those
    under the mask are ignored, those outside it must be finite. Raises ConfigError for unusable arguments.
    Source: paper eq. 1; the effective loss of SDPO at micro-batch 1.
    """
    mask = effective_mask(token_mask, sample_mask)
    if values.shape != mask.shape:
        raise ConfigError(f"values must have the shape of token_mask {list(mask.shape)}, got {list(values.shape)}")
    if denominator is None:
        denominator = batch_denominator(token_mask, sample_mask, aggregation)
    elif not (math.isfinite(denominator) and denominator > 0):
        raise ConfigError(f"denominator must be positive and finite (see batch_denominator), got {denominator!r}")
    check_aggregation(aggregation)
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    count = torch.ones(len(mask), dtype=values.dtype, device=mask.device)
    if aggregation != "token_mean":
        count = count / mask.sum(1).clamp(min=1)
    coefficient = mask * (count / denominator).unsqueeze(1)
    if weights is not None:
        coefficient = coefficient * _masked_weights(weights, mask).to(values.dtype)
    # where, not a product: NaN · 0 is NaN, in the value and in the gradient.
    return (torch.where(mask, values, 0.0) * coefficient).sum()


def batch_denominator(
    token_mask: Tensor,
    sample_mask: Tensor,
    aggregation: Aggregation = "seq_mean",
) -> float:
    """What the sum over a whole batch is divided by, at least 1: samples, active samples or unmasked tokens.

    Take it once over all micro-batches and shards and pass it to each of them; denominators of parts do not
    add up (the floor of 1). Shapes as in `aggregate`. Raises ConfigError for unusable arguments.
    """
    check_aggregation(aggregation)
    mask = effective_mask(token_mask, sample_mask)
    if aggregation == "seq_mean":
        return max(1.0, float(len(mask)))
    return max(1.0, float((mask.any(1) if aggregation == "seq_mean_active" else mask).sum()))


def effective_mask(token_mask: Tensor, sample_mask: Tensor) -> Tensor:
    """token_mask · sample_mask, bool [B, T]; ConfigError unless [B, T] and [B] and holding only 0 and 1."""
    if token_mask.dim() != 2 or sample_mask.shape != token_mask.shape[:1]:
        raise ConfigError(
            "token_mask must be [batch, tokens] and sample_mask [batch], got "
            f"{list(token_mask.shape)} and {list(sample_mask.shape)}"
        )
    for name, mask in (("token_mask", token_mask), ("sample_mask", sample_mask)):
        if mask.dtype != torch.bool and not bool(((mask == 0) | (mask == 1)).all()):
            raise ConfigError(f"{name} must hold only 0 and 1; scale tokens with weights")
    return token_mask.bool() & sample_mask.bool().unsqueeze(1)


def check_aggregation(aggregation: str) -> None:
    """Raise ConfigError unless it is one of the three names."""
    if aggregation not in get_args(Aggregation):
        raise ConfigError(f"aggregation must be one of {', '.join(get_args(Aggregation))}, got {aggregation!r}")


def _masked_weights(weights: Tensor, mask: Tensor) -> Tensor:
    if weights.shape != mask.shape:
        raise ConfigError(f"weights must have the shape of token_mask {list(mask.shape)}, got {list(weights.shape)}")
    kept = torch.where(mask, weights.detach(), 0.0)
    bad = (~torch.isfinite(kept)).any(1).nonzero().flatten().tolist()
    if bad:
        raise ConfigError(f"weights are not finite in rows {bad}; reject those samples through sample_mask")
    return kept


# exp(20) is 5e8: far beyond any clip, and far from overflowing fp32.
LOG_RATIO_MAX = 20.0
# Log-probs may exceed 0 by rounding; more than this is not a log-prob (a flipped sign, usually).
LOG_PROB_MAX = 1e-3


@dataclass(frozen=True)
class ImportanceDiagnostics:
    """How far engine and trainer disagree over the unmasked tokens of a batch."""

    tokens: int
    mean_abs_log_ratio: float
    clipped_share: float
    effective_sample_share: float


def importance_weights(
    trainer_logprobs: Tensor, rollout_logprobs: Tensor, token_mask: Tensor, *, clip: float = 2.0
) -> Tensor:
    """w = min(clip, exp(clamp(ln π_trainer - ln π_rollout, ±20))) on unmasked tokens, 0 elsewhere; detached.

    π_trainer is recomputed with the weights before this batch's update; π_rollout is what the engine
    returned, at the sampling temperature. No lower cut, no normalisation over the batch. A missing log-prob
    is NaN.
    Shapes: all [B, T], token_mask 0 or 1; result [B, T] in fp32 (float64 for float64 trainer log-probs).
    Raises ConfigError for unusable arguments, and if an unmasked token lacks a usable log-prob: drop its
    sample first.
    Source: paper, token-level importance sampling with threshold 2.0; SDPO rollout_corr_helper.py.
    """
    if not (math.isfinite(clip) and clip > 0):
        raise ConfigError(f"clip must be positive and finite, got {clip!r}")
    # Refused here rather than weighted 0 or 1: a sample without its log-probs is the caller's to reject and to count.
    usable = usable_samples(trainer_logprobs, rollout_logprobs, token_mask)
    if not bool(usable.all()):
        raise ConfigError(
            f"rows {(~usable).nonzero().flatten().tolist()} lack a usable log-prob on an unmasked token "
            "(NaN, infinite or above 0); reject those samples: clear their rows of token_mask and sample_mask"
        )
    ratio = _log_ratio(trainer_logprobs, rollout_logprobs, token_mask).clamp(-LOG_RATIO_MAX, LOG_RATIO_MAX).exp()
    return torch.where(token_mask.bool(), ratio.clamp(max=clip), 0.0)


def usable_samples(trainer_logprobs: Tensor, rollout_logprobs: Tensor, token_mask: Tensor) -> Tensor:
    """Rows, bool [B], whose unmasked tokens all have finite log-probs, none above 0 by more than rounding.

    The other samples are to be rejected and counted: and this into sample_mask, and into the rows of
    token_mask.
    """
    _check(trainer_logprobs, rollout_logprobs, token_mask)
    good = torch.ones_like(token_mask, dtype=torch.bool)
    for logprobs in (trainer_logprobs.detach(), rollout_logprobs.detach()):
        good &= torch.isfinite(logprobs) & (logprobs <= LOG_PROB_MAX)
    return (good | ~token_mask.bool()).all(1)


def importance_diagnostics(
    trainer_logprobs: Tensor, rollout_logprobs: Tensor, token_mask: Tensor, *, clip: float = 2.0
) -> ImportanceDiagnostics | None:
    """Mean |Δ log-prob|, share of tokens cut at `clip`, and (Σw)² / (n Σw²) of the cut weights.

    None when no token is unmasked: shares of nothing are undefined. Arguments and errors as
    `importance_weights`.
    """
    weights = importance_weights(trainer_logprobs, rollout_logprobs, token_mask, clip=clip)
    mask = token_mask.bool()
    tokens = int(mask.sum())
    if tokens == 0:
        return None
    log_ratio = _log_ratio(trainer_logprobs, rollout_logprobs, token_mask)[mask]
    kept = weights[mask].double()
    return ImportanceDiagnostics(
        tokens=tokens,
        mean_abs_log_ratio=float(log_ratio.double().abs().mean()),
        clipped_share=float((log_ratio > math.log(clip)).double().mean()),
        effective_sample_share=float(kept.sum() ** 2 / (tokens * (kept**2).sum())),
    )


def _log_ratio(trainer_logprobs: Tensor, rollout_logprobs: Tensor, token_mask: Tensor) -> Tensor:
    """Difference of log-probs, detached, in fp32 or float64; 0 under the mask."""
    dtype = torch.promote_types(trainer_logprobs.dtype, torch.float32)
    difference = trainer_logprobs.detach().to(dtype) - rollout_logprobs.detach().to(dtype)
    return torch.where(token_mask.bool(), difference, 0.0)


def _check(trainer_logprobs: Tensor, rollout_logprobs: Tensor, token_mask: Tensor) -> None:
    shapes = [list(x.shape) for x in (trainer_logprobs, rollout_logprobs, token_mask)]
    if token_mask.dim() != 2 or shapes[0] != shapes[1] or shapes[1] != shapes[2]:
        raise ConfigError(
            "trainer_logprobs, rollout_logprobs and token_mask must have one shape [batch, tokens], got "
            + ", ".join(map(str, shapes))
        )
    if not (trainer_logprobs.is_floating_point() and rollout_logprobs.is_floating_point()):
        raise ConfigError(
            f"log-probs must be floating point, got {trainer_logprobs.dtype} and {rollout_logprobs.dtype}"
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
    # Its own mean would leave nothing of it.
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
    anchor: float = 0.0,
    anchor_logprobs: Tensor | None = None,
    weights: Tensor | None = None,
    aggregation: Aggregation = "seq_mean",
    denominator: float | None = None,
) -> Tensor:
    """Clipped policy loss of the GRPO baseline, a scalar; no entropy, no critic, and by default no KL term.

    Per token, with ratio = exp(clamp(logprobs - old_logprobs, ±20)): max(-A·ratio, -A·clip(ratio, 1-low,
    1+high)), and for A < 0 at most -A·dual_clip; then weights and `aggregate`, so it keeps GRPO's 1/length.
    With one update a batch old_logprobs is logprobs.detach(), the ratio is 1 and nothing is clipped.
    `anchor` adds anchor · (exp(d) - d - 1) with d = anchor_logprobs - logprobs, an estimate of the KL divergence from
    another policy that is never negative (the one of GRPO's authors, arXiv 2402.03300, eq. 4).

    Shapes: logprobs, old_logprobs, anchor_logprobs, token_mask, weights [B, T]; advantages, sample_mask [B].
    old_logprobs, anchor_logprobs and advantages are detached. Raises ConfigError for unusable arguments.
    """
    _check_grpo(logprobs, old_logprobs, advantages, token_mask)
    if anchor_logprobs is not None:
        _check_grpo(logprobs, anchor_logprobs, advantages, token_mask)
    _check_clips(clip_low, clip_high, dual_clip)
    mask = effective_mask(token_mask, sample_mask)
    dtype = torch.promote_types(logprobs.dtype, torch.float32)
    # Masked before exp, not after: the gradient of a masked NaN would be NaN.
    log_ratio = torch.where(mask, logprobs.to(dtype) - old_logprobs.detach().to(dtype), 0.0)
    ratio = log_ratio.clamp(-LOG_RATIO_MAX, LOG_RATIO_MAX).exp()
    advantage = advantages.detach().to(dtype).unsqueeze(1)
    clipped = ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    # The larger loss of the two: PPO's pessimistic bound.
    policy = torch.maximum(-advantage * ratio, -advantage * clipped)
    # For A < 0 that bound grows with the ratio without end; dual clipping ends it.
    capped = torch.minimum(policy, -advantage * dual_clip)
    losses = torch.where(advantage < 0, capped, policy)
    if anchor_logprobs is not None:
        away = torch.where(mask, anchor_logprobs.detach().to(dtype) - logprobs.to(dtype), 0.0)
        # Clamped as the ratio is: exp of a large difference would be all that is left of the loss.
        losses = losses + anchor * (away.clamp(-LOG_RATIO_MAX, LOG_RATIO_MAX).exp() - away - 1.0)
    return aggregate(
        losses,
        token_mask,
        sample_mask,
        weights=weights,
        aggregation=aggregation,
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
