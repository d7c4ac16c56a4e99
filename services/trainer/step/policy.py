"""The gradient of a policy gradient method, GRPO or HACPO, for one micro-batch (method 4).

What always holds: a row's ratio is to its author as it drew the row, which for an own row is the student when the step
began, and for a foreign one the peer; an own row's importance weight corrects for the engine alone, so that what the
updates of a step did is in the ratio and not in both.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from services.trainer.model.model import StudentModel
from services.trainer.model.teacher import EmaTeacher
from services.trainer.step.distil import sampled_logprobs
from services.trainer.step.losses import Aggregation, grpo_loss, importance_weights
from services.trainer.step.shares import evened
from services.trainer.step.sharing import Foreign, hacpo_loss, unclipped
from services.trainer.step.trees import Pack, Places, Row, micro_batches, pack_rows, places_of
from shared.config.baselines import GrpoSection, HacpoSection


@dataclass(frozen=True)
class PolicyRule:
    """sharing: of HACPO, None for GRPO. temperature: that of the rollouts. is_clip: upper cut of importance weights."""

    grpo: GrpoSection
    sharing: HacpoSection | None
    temperature: float
    is_clip: float
    aggregation: Aggregation


OldPolicy = dict[Row, Tensor]
"""Log-probs [T] of a row's response under the student at the step's start."""


@dataclass(frozen=True)
class PolicyGradient:
    """loss: this micro-batch's share. pair: log-probs of the student's own tokens, under the old policy and the engine.

    foreign, used: the peer's rollouts, and those of them whose ratio lay within the clip.
    """

    loss: float
    pair: tuple[Tensor, Tensor]
    foreign: int
    used: int


def old_policy(
    model: StudentModel,
    rows: Sequence[Sequence[Row]],
    temperature: float,
    limit_tokens: int,
    check: Callable[[], None],
    *,
    rank: int = 0,
) -> OldPolicy:
    """Log-probs of rows that will be trained on only after an update, from the student as it is; no gradient.

    rows: of each rank; only those of `rank` are computed. check: called between forward passes; raises to abandon the
    step.
    """
    found: OldPolicy = {}
    largest = model.packing.tree_tokens
    passes = [micro_batches(pack_rows(each, largest), limit_tokens, largest) for each in rows]
    for packs in evened(passes)[rank]:
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
    rule: PolicyRule,
    *,
    denominator: float,
    update: int = 0,
    anchor_to: EmaTeacher | None = None,
    on_any: Callable[[bool], bool] = lambda mine: mine,
    factor: float = 1.0,
) -> PolicyGradient | None:
    """Add the gradient of one micro-batch; None if a log-prob or the loss is not finite.

    old: of all own rows, or of none before the first update. denominator: of the whole mini-batch. update: which one of
    the step, from 0. anchor_to: the policy that `grpo.anchor` holds the student to; it sees what the student sees, no
    solution and no feedback. on_any: whether something is so on any rank, asked before the backward pass. factor: of
    the gradient.
    """
    # First: the backward pass may make the student's pass again, and must find the model as that pass left it.
    anchor_RT = _anchor(anchor_to, packs, places, rule.temperature) if anchor_to is not None else None
    logprobs_RT = _logprobs(model, packs, places, rule.temperature)
    rows = _rows(packs)
    foreign_R = torch.tensor([row.foreign for row in rows], device=places.mask.device)
    old_RT = _old_logprobs(rows, logprobs_RT, places, old)
    value = math.nan
    if bool(torch.isfinite(logprobs_RT).all() & torch.isfinite(old_RT).all()):
        loss = _loss(logprobs_RT, old_RT, anchor_RT, rows, foreign_R, places, rule, denominator, update)
        value = float(loss.detach())
    if on_any(not math.isfinite(value)):
        return None
    (loss if factor == 1.0 else factor * loss).backward()  # type: ignore[no-untyped-call]
    used = 0
    if rule.sharing is not None:
        used = int((foreign_R & unclipped(logprobs_RT, old_RT, places.mask, rule.sharing, update)).sum())
    own = places.mask & ~foreign_R[:, None]
    return PolicyGradient(value, (old_RT[own], places.rollout_logprobs[own]), int(foreign_R.sum()), used)


def _loss(
    logprobs_RT: Tensor,
    old_RT: Tensor,
    anchor_RT: Tensor | None,
    rows: Sequence[Row],
    foreign_R: Tensor,
    places: Places,
    rule: PolicyRule,
    denominator: float,
    update: int,
) -> Tensor:
    """Of the method that the rule is of; a scalar."""
    device = places.mask.device
    advantages_R = torch.tensor([row.advantage for row in rows], device=device)
    everything = torch.ones(len(rows), dtype=torch.bool, device=device)
    # 1 for a foreign row: the log-probs that it was drawn with are its old policy.
    weights_RT = importance_weights(old_RT, places.rollout_logprobs, places.mask, clip=rule.is_clip)
    if rule.sharing is not None:
        return hacpo_loss(
            logprobs_RT,
            old_RT,
            advantages_R,
            Foreign(foreign_R, torch.tensor([row.weight for row in rows], device=device)),
            places.mask,
            everything,
            rule.sharing,
            update=update,
            weights=weights_RT,
            aggregation=rule.aggregation,
            denominator=denominator,
        )
    return grpo_loss(
        logprobs_RT,
        old_RT,
        advantages_R,
        places.mask,
        everything,
        clip_low=rule.grpo.clip_low,
        clip_high=rule.grpo.clip_high,
        dual_clip=rule.grpo.dual_clip,
        anchor=rule.grpo.anchor,
        anchor_logprobs=anchor_RT,
        weights=weights_RT,
        aggregation=rule.aggregation,
        denominator=denominator,
    )


def _old_logprobs(rows: Sequence[Row], logprobs_RT: Tensor, places: Places, old: OldPolicy) -> Tensor:
    """What each row's ratio is taken against: its author as it drew it."""
    own = next((row for row in rows if not row.foreign), None)
    # `detach`, not a second pass: the very same numbers, so that every ratio is exactly 1.
    old_RT = logprobs_RT.detach()
    if own is not None and own in old:
        old_RT = _padded([old.get(row, old_RT[0, :0]) for row in rows], places.mask)
    foreign_R = torch.tensor([row.foreign for row in rows], device=places.mask.device)
    return torch.where(foreign_R[:, None], places.rollout_logprobs.to(old_RT.dtype), old_RT)


def _logprobs(model: StudentModel, packs: Sequence[Pack], places: Places, temperature: float) -> Tensor:
    hidden = model.hidden([pack.student for pack in packs], places.student)
    return sampled_logprobs(hidden, model.output_layer(temperature), places)


def _anchor(anchor_to: EmaTeacher, packs: Sequence[Pack], places: Places, temperature: float) -> Tensor:
    with torch.no_grad():
        hidden = anchor_to.hidden([pack.student for pack in packs], places.student)
        return sampled_logprobs(hidden, anchor_to.output_layer(temperature), places)


def _rows(packs: Sequence[Pack]) -> list[Row]:
    """In the order of `places_of`."""
    return [row for pack in packs for row in pack.rows]


def _padded(logprobs: Sequence[Tensor], mask: Tensor) -> Tensor:
    padded_RT = torch.zeros(mask.shape, device=mask.device)
    for at, each in enumerate(logprobs):
        padded_RT[at, : len(each)] = each
    return padded_RT
