"""The gradient of the GRPO baseline, on the rows, packs and places of the self-distillation (method 4).

What always holds: no teacher is asked. A token's ratio and its importance weight are both taken against the student
as it was when the step began: the weight corrects for the engine, the ratio for the updates since, and none is
counted twice. Until the step's first update that is the present student, and every ratio is exactly 1.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from services.trainer.losses import Aggregation, grpo_loss, importance_weights
from services.trainer.model import StudentModel
from services.trainer.places import Places, places_of, sampled_logprobs
from services.trainer.rows import Row
from services.trainer.trees import Pack, micro_batches, pack_rows
from shared.config.training import GrpoSection


@dataclass(frozen=True)
class PolicyGradient:
    """loss: this micro-batch's share. old_logprobs [R, T]: of the student at the step's start."""

    loss: float
    old_logprobs: Tensor


def with_old_logprobs(
    model: StudentModel, rows: Sequence[Row], temperature: float, limit_tokens: int, check: Callable[[], None]
) -> list[Row]:
    """The same rows; active ones carry the log-probs that the student gives them now.

    For mini-batches that will be trained on after an update of the same step. check: called between forward
    passes; raises to abandon the step.
    """
    packs = pack_rows([row for row in rows if row.active])
    scored: dict[int, tuple[float, ...]] = {}
    for part in micro_batches(packs, limit_tokens):
        check()
        places = places_of(part, model.device)
        with torch.no_grad():
            logprobs_RT = sampled_logprobs(_logits(model, part, places, temperature), places).tolist()
        for row, logprobs_T in zip(_rows(part), logprobs_RT, strict=True):
            scored[id(row)] = tuple(logprobs_T[: len(row.response)])
    return [replace(row, old_logprobs=scored[id(row)]) if row.active else row for row in rows]


def policy_gradient(
    model: StudentModel,
    packs: Sequence[Pack],
    places: Places,
    grpo: GrpoSection,
    *,
    temperature: float,
    is_clip: float,
    aggregation: Aggregation,
    denominator: float,
) -> PolicyGradient | None:
    """Add the gradient of one micro-batch; None if a log-prob or the loss is not finite.

    denominator: of the whole mini-batch.
    """
    rows = _rows(packs)
    logprobs_RT = sampled_logprobs(_logits(model, packs, places, temperature), places)
    old_RT = _old_logprobs(rows, logprobs_RT.detach())
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


def _logits(model: StudentModel, packs: Sequence[Pack], places: Places, temperature: float) -> Tensor:
    return model.logits([pack.student for pack in packs], places.student, temperature)


def _rows(packs: Sequence[Pack]) -> list[Row]:
    """In the order of `places_of`."""
    return [row for pack in packs for row in pack.rows]


def _old_logprobs(rows: Sequence[Row], now_RT: Tensor) -> Tensor:
    """[R, T], 0 where padded: what the rows carry, or the present ones where no update came before."""
    old_RT = now_RT.clone()
    for at, row in enumerate(rows):
        if row.old_logprobs:
            old_RT[at, : len(row.response)] = torch.tensor(row.old_logprobs, device=now_RT.device)
    return old_RT
