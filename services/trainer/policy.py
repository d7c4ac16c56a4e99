"""The gradient of the GRPO baseline, on the rows, packs and places of the self-distillation (method 4).

What always holds: no teacher is asked. A token's ratio is taken against the student as it was when the step began,
and so is its importance weight, which therefore corrects for the engine alone: the ratio does the rest. Before the
first update of a step that student is the present one, and every ratio is exactly 1.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from services.trainer.model.model import StudentModel
from services.trainer.places import Places, places_of
from services.trainer.step.distil import sampled_logprobs
from services.trainer.step.losses import Aggregation, grpo_loss, importance_weights
from services.trainer.step.rows import Row
from services.trainer.step.trees import Pack, micro_batches, pack_rows
from shared.config.settings import GrpoSection

OldPolicy = dict[Row, Tensor]
"""Log-probs [T] of a row's response under the student at the step's start."""


@dataclass(frozen=True)
class PolicyGradient:
    """loss: this micro-batch's share. old_logprobs [R, T]: what the ratios were taken against."""

    loss: float
    old_logprobs: Tensor


def old_policy(
    model: StudentModel, rows: Sequence[Row], temperature: float, limit_tokens: int, check: Callable[[], None]
) -> OldPolicy:
    """Log-probs of rows that will be trained on only after an update, from the student as it is; no gradient.

    check: called between forward passes; raises to abandon the step.
    """
    found: OldPolicy = {}
    largest = model.packing.tree_tokens
    for packs in micro_batches(pack_rows(rows, largest), limit_tokens, largest):
        check()
        places = places_of(packs, model.device)
        with torch.no_grad():
            logprobs_RT = _logprobs(model, packs, places, temperature)
        found |= {row: logprobs_RT[at, : len(row.response)] for at, row in enumerate(_rows(packs))}
    return found


def policy_gradient(
    model: StudentModel,
    packs: Sequence[Pack],
    places: Places,
    old: OldPolicy,
    grpo: GrpoSection,
    *,
    temperature: float,
    is_clip: float,
    aggregation: Aggregation,
    denominator: float,
) -> PolicyGradient | None:
    """Add the gradient of one micro-batch; None if a log-prob or the loss is not finite.

    old: of all rows, or of none before the first update. denominator: of the whole mini-batch.
    """
    logprobs_RT = _logprobs(model, packs, places, temperature)
    rows = _rows(packs)
    old_RT = _padded([old[row] for row in rows], places.mask) if rows[0] in old else logprobs_RT.detach()
    if not bool(torch.isfinite(logprobs_RT).all() & torch.isfinite(old_RT).all()):
        return None
    loss = grpo_loss(
        logprobs_RT,
        old_RT,
        torch.tensor([row.advantage for row in rows], device=places.mask.device),
        places.mask,
        torch.ones(len(rows), dtype=torch.bool, device=places.mask.device),
        clip_low=grpo.clip_low,
        clip_high=grpo.clip_high,
        dual_clip=grpo.dual_clip,
        weights=importance_weights(old_RT, places.rollout_logprobs, places.mask, clip=is_clip),
        aggregation=aggregation,
        denominator=denominator,
    )
    value = float(loss.detach())
    if not math.isfinite(value):
        return None
    loss.backward()  # type: ignore[no-untyped-call]
    return PolicyGradient(value, old_RT)


def _logprobs(model: StudentModel, packs: Sequence[Pack], places: Places, temperature: float) -> Tensor:
    hidden = model.hidden([pack.student for pack in packs], places.student)
    return sampled_logprobs(hidden, model.output_layer(temperature), places)


def _rows(packs: Sequence[Pack]) -> list[Row]:
    """In the order of `places_of`."""
    return [row for pack in packs for row in pack.rows]


def _padded(logprobs: Sequence[Tensor], mask: Tensor) -> Tensor:
    padded_RT = torch.zeros(mask.shape, device=mask.device)
    for at, each in enumerate(logprobs):
        padded_RT[at, : len(each)] = each
    return padded_RT
