"""The loss of a student that learns from its own rollouts and from its peer's: HACPO (arXiv 2603.02604).

Everything is by sequence. Peers may have different tokenizers, so a foreign rollout is its text, encoded anew, and only
the mean log-prob of a token can be compared with that under its author.

What always holds: an own rollout's loss is GSPO's; a foreign one pulls at most as hard as its ratio to its author lies
below 1, and not at all where the ratio is clipped; both end in `aggregate`, as those of all methods do.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from services.trainer.step.losses import LOG_RATIO_MAX, Aggregation, aggregate, effective_mask
from shared.config.baselines import HacpoSection
from shared.errors import ConfigError


@dataclass(frozen=True)
class Foreign:
    """rows: which are the peer's, bool [B]. weights: P_peer / P_learner, [B]; those of own rows are not read."""

    rows: Tensor
    weights: Tensor


def sequence_ratios(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor) -> Tensor:
    """exp of the mean difference of log-probs, by row [B]; 1 for a row without an unmasked token.

    With the author's mean log-prob at every token of `old_logprobs`, the ratio of a foreign rollout (equation 59).
    """
    dtype = torch.promote_types(logprobs.dtype, torch.float32)
    # Masked before exp, not after: the gradient of a masked NaN would be NaN.
    difference = torch.where(mask, logprobs.to(dtype) - old_logprobs.detach().to(dtype), 0.0)
    mean = difference.sum(1) / mask.sum(1).clamp(min=1)
    return mean.clamp(-LOG_RATIO_MAX, LOG_RATIO_MAX).exp()


def lowest_ratio(settings: HacpoSection, update: int) -> float:
    """Below it a foreign rollout is clipped at this update of the step, from 0: 1 - δ + m·δ_step, at most 1."""
    return min(1.0, 1.0 - settings.foreign_clip + update * settings.foreign_clip_step)


def hacpo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    foreign: Foreign,
    token_mask: Tensor,
    sample_mask: Tensor,
    settings: HacpoSection,
    *,
    update: int,
    weights: Tensor | None = None,
    aggregation: Aggregation = "seq_mean",
    denominator: float | None = None,
) -> Tensor:
    """HACPO's loss, a scalar (arXiv 2603.02604, 3.3, 3.4 and equations 56 to 59, as in the authors' code).

    With s the row's ratio by sequence: own rows max(-A·s, -A·clip(s, 1-low, 1+high)); foreign rows -A·weight·c·sg(c)^α
    with c = clip(s, `lowest_ratio`, 1). A row's value stands at each of its tokens, so that the means of `aggregate`
    are those of the other methods: with `seq_mean` that is the mean over rows.

    Shapes: logprobs, old_logprobs, token_mask, weights [B, T]; advantages, sample_mask and those of foreign [B].
    old_logprobs, advantages and weights are detached. Raises ConfigError for unusable arguments.
    """
    for name, tensor in (("logprobs", logprobs), ("old_logprobs", old_logprobs)):
        if tensor.shape != token_mask.shape:
            raise ConfigError(
                f"{name} must have the shape of token_mask {list(token_mask.shape)}, got {list(tensor.shape)}"
            )
    for name, tensor in (("advantages", advantages), ("rows", foreign.rows), ("weights", foreign.weights)):
        if tensor.shape != token_mask.shape[:1]:
            raise ConfigError(f"{name} must be one a sample, {list(token_mask.shape[:1])}, got {list(tensor.shape)}")
    mask = effective_mask(token_mask, sample_mask)
    ratio_B = sequence_ratios(logprobs, old_logprobs, mask)
    advantage_B = advantages.detach().to(ratio_B.dtype)
    near_B = ratio_B.clamp(1.0 - settings.clip_low, 1.0 + settings.clip_high)
    own_B = torch.maximum(-advantage_B * ratio_B, -advantage_B * near_B)
    clipped_B = ratio_B.clamp(lowest_ratio(settings, update), 1.0)
    # The power weighs a rollout by how likely it is to the learner; it is no way to a lower loss, so it is detached.
    pull_B = clipped_B * clipped_B.detach().pow(settings.alpha) * foreign.weights.detach()
    losses_B = torch.where(foreign.rows, -advantage_B * pull_B, own_B)
    return aggregate(
        losses_B[:, None].expand(mask.shape),
        token_mask,
        sample_mask,
        weights=weights,
        aggregation=aggregation,
        denominator=denominator,
    )


def unclipped(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor, settings: HacpoSection, update: int) -> Tensor:
    """Rows [B] that as foreign ones have a gradient: their ratio lies within the clip."""
    ratio_B = sequence_ratios(logprobs.detach(), old_logprobs, mask)
    return (ratio_B >= lowest_ratio(settings, update)) & (ratio_B <= 1.0)
