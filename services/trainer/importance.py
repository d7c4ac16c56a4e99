"""Importance weights between the engine that sampled and the trainer that learns.

What always holds: weights are detached, cut from above only, and 0 outside the mask; a token without a usable
log-prob never gets weight 1, its whole sample is to be rejected (`usable_samples`).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from shared.errors import ConfigError

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
