"""From per-token values to one number, the same for any way of cutting a batch into micro-batches.

Owns masks, per-sequence means and the batch-wide normaliser. What always holds: with one `denominator`, taken
over the whole batch, the values (and so the gradients) of the micro-batches add up to those of the batch in
one piece; and a masked value never reaches the sum, not even as NaN times zero.
"""

import math
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
    multiplicity: Tensor | None = None,
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
    Contract of `multiplicity`: row j stands for multiplicity[j] samples equal in tokens, prompts and weights;
    it counts that often here and in the denominator.

    Shapes: values, token_mask, weights [B, T]; sample_mask, multiplicity [B]. Weights are detached; those
    under the mask are ignored, those outside it must be finite. Raises ConfigError for unusable arguments.
    Source: paper eq. 1; the effective loss of SDPO at micro-batch 1.
    """
    mask = effective_mask(token_mask, sample_mask)
    if values.shape != mask.shape:
        raise ConfigError(f"values must have the shape of token_mask {list(mask.shape)}, got {list(values.shape)}")
    if denominator is None:
        denominator = batch_denominator(token_mask, sample_mask, aggregation, multiplicity)
    elif not (math.isfinite(denominator) and denominator > 0):
        raise ConfigError(f"denominator must be positive and finite (see batch_denominator), got {denominator!r}")
    check_aggregation(aggregation)
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    count = _multiplicity(multiplicity, mask).to(values.dtype)
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
    multiplicity: Tensor | None = None,
) -> float:
    """What the sum over a whole batch is divided by, at least 1: samples, active samples or unmasked tokens.

    Take it once over all micro-batches and shards and pass it to each of them; denominators of parts do not
    add up (the floor of 1). Shapes as in `aggregate`. Raises ConfigError for unusable arguments.
    """
    check_aggregation(aggregation)
    mask = effective_mask(token_mask, sample_mask)
    count = _multiplicity(multiplicity, mask)
    if aggregation == "seq_mean":
        total = count.sum()
    elif aggregation == "seq_mean_active":
        total = (count * mask.any(1)).sum()
    else:
        total = (count * mask.sum(1)).sum()
    return max(1.0, float(total))


def active_share(token_mask: Tensor, sample_mask: Tensor, multiplicity: Tensor | None = None) -> float:
    """Share of the samples with an unmasked token: what masked-out samples leave of seq_mean's step.

    0.0 for a batch without samples. Shapes as in `aggregate`.
    """
    mask = effective_mask(token_mask, sample_mask)
    count = _multiplicity(multiplicity, mask)
    return float((count * mask.any(1)).sum() / count.sum().clamp(min=1))


def effective_mask(token_mask: Tensor, sample_mask: Tensor) -> Tensor:
    """token_mask · sample_mask, bool [B, T]; ConfigError unless [B, T] and [B] and holding only 0 and 1."""
    if token_mask.dim() != 2 or sample_mask.shape != token_mask.shape[:1]:
        raise ConfigError(
            "token_mask must be [batch, tokens] and sample_mask [batch], got "
            f"{list(token_mask.shape)} and {list(sample_mask.shape)}"
        )
    for name, mask in (("token_mask", token_mask), ("sample_mask", sample_mask)):
        if mask.dtype != torch.bool and not bool(((mask == 0) | (mask == 1)).all()):
            raise ConfigError(f"{name} must hold only 0 and 1; scale tokens with weights and rows with multiplicity")
    return token_mask.bool() & sample_mask.bool().unsqueeze(1)


def check_aggregation(aggregation: str) -> None:
    """Raise ConfigError unless it is one of the three names."""
    if aggregation not in get_args(Aggregation):
        raise ConfigError(f"aggregation must be one of {', '.join(get_args(Aggregation))}, got {aggregation!r}")


def _multiplicity(multiplicity: Tensor | None, mask: Tensor) -> Tensor:
    """Samples a row stands for, float64 [B]."""
    if multiplicity is None:
        return torch.ones(mask.shape[0], dtype=torch.float64, device=mask.device)
    if multiplicity.shape != mask.shape[:1]:
        raise ConfigError(f"multiplicity must have shape [{mask.shape[0]}], got {list(multiplicity.shape)}")
    count = multiplicity.detach().to(torch.float64)
    if not bool((torch.isfinite(count) & (count >= 0)).all()):
        raise ConfigError(f"multiplicity must be finite and not negative, got {multiplicity.tolist()}")
    return count


def _masked_weights(weights: Tensor, mask: Tensor) -> Tensor:
    if weights.shape != mask.shape:
        raise ConfigError(f"weights must have the shape of token_mask {list(mask.shape)}, got {list(weights.shape)}")
    kept = torch.where(mask, weights.detach(), 0.0)
    bad = (~torch.isfinite(kept)).any(1).nonzero().flatten().tolist()
    if bad:
        raise ConfigError(f"weights are not finite in rows {bad}; reject those samples through sample_mask")
    return kept
