"""One step: a batch's rows become optimizer updates (paper Alg. 1; method 3).

What always holds: the same learner and the same rows give the same weights, bit for bit, on the same machine and
thread count; how rows are packed into micro-batches changes a gradient by rounding only; a loss, log-prob or
gradient that is not finite changes nothing but a counter. Of several ranks each computes what `shares` gives it; their
gradients are added up, and where one finds something that is not finite, all skip the update.

Each mini-batch is one update. Its importance weights compare the engine's log-probs with the student's as it is
at that update, so that from the second update on they also correct for the updates before it. The EMA teacher
follows after every update and scores the next mini-batch.

With `method = grpo` or `hacpo`, which are baselines, the gradient is `policy_gradient`'s, on the same rows, packs and
places, and no teacher is asked (method 4). A token's ratio is taken against the student as it was when the step began,
and so is its importance weight. Before the first update of a step that student is the present one, and every ratio is
exactly 1. With `grpo.anchor` the EMA teacher is asked after all, for its log-probs of the same tokens on the student's
own prompts. With `hacpo` the peer's rollouts are rows beside the own ones.
"""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from services.trainer.model.learner import Learner
from services.trainer.ranks.group import Group
from services.trainer.step.distil import distil
from services.trainer.step.divergence import DivergenceRule
from services.trainer.step.losses import (
    aggregate,
    batch_denominator,
    importance_diagnostics,
    importance_weights,
)
from services.trainer.step.policy import OldPolicy, PolicyRule, old_policy, policy_gradient
from services.trainer.step.rows import mini_batches
from services.trainer.step.shares import Share, counts, shares
from services.trainer.step.tracing import Tracer
from services.trainer.step.trees import Pack, Places, Row, pack_rows, places_of
from shared.config.baselines import POLICY_GRADIENTS, GrpoSection, HacpoSection, Method, keeps_teacher
from shared.config.training import LossSection, OptimizerSection
from shared.contracts.weights import StepMetrics
from shared.errors import OpcodError


class NonFiniteError(OpcodError):
    """Too many updates in a row had a loss or gradient that is not finite."""


@dataclass(frozen=True)
class StepSettings:
    """temperature: that of the rollouts; logits of student and teacher are divided by it."""

    loss: LossSection
    optimizer: OptimizerSection
    temperature: float
    method: Method = "opcod"
    grpo: GrpoSection = field(default_factory=GrpoSection)
    hacpo: HacpoSection = field(default_factory=HacpoSection)


@dataclass
class StageClock:
    """Seconds spent by stage."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - started

    def take(self, other: "StageClock") -> None:
        """Add what another one has measured."""
        for name, seconds in other.seconds.items():
            self.seconds[name] += seconds


@dataclass
class _Progress:
    """What the updates of a step have shown so far; pairs: log-probs of trainer and engine, by token.

    old: log-probs under the student at the step's start, of the mini-batches that come after an update (policy
    gradients). update: which mini-batch, from 0. foreign, used: as in PolicyGradient.
    """

    tracer: Tracer | None = None
    old: OldPolicy = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    pairs: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    skipped: int = 0
    update: int = 0
    foreign: int = 0
    used: int = 0


class Step:
    """A step under way: rows are added mini-batch by mini-batch, and each of them is one update.

    An update without an active row is not made. check: called between forward passes; raises to abandon the step.
    tracer: looks at what the loss saw; with a policy gradient there is nothing for it to see.
    """

    def __init__(
        self,
        learner: Learner,
        settings: StepSettings,
        clock: StageClock,
        check: Callable[[], None] = lambda: None,
        tracer: Tracer | None = None,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self._learner = learner
        self._check = check
        self._progress = _Progress(tracer)
        self._rows: list[Row] = []
        # Of the mini-batch that is open: its rows, its share of the loss, whether something of it was not finite.
        self._added: list[Row] = []
        self._total = 0.0
        self._spoilt = False

    def ask_old_policy(self, batches: Sequence[Sequence[Row]]) -> None:
        """Of a policy gradient, before the first update: log-probs of these mini-batches, which come after it."""
        with self.clock.stage("old policy"):
            later = _later_rows(self._learner, batches, self.settings)
            self._progress.old |= old_policy(
                self._learner.model,
                later,
                self.settings.temperature,
                self.settings.optimizer.pass_tokens,
                self._check,
                rank=self._learner.group.rank,
            )

    def add(self, rows: Sequence[Row], denominator: float = 1.0) -> None:
        """Add the gradient of rows of the open mini-batch. denominator: of all of it, or 1 until that is known."""
        self._added += rows
        if self._spoilt:
            return
        # Every rank computes the shares of all of them, from the same rows: nothing has to be sent.
        for part in _shares(self._learner, rows, self.settings)[self._learner.group.rank]:
            self._check()
            loss = _backward(self._learner, part, denominator, self.settings, self.clock, self._progress)
            # One bad micro-batch spoils the sum of its mini-batch: what the others have added goes, too.
            if loss is None:
                self._learner.skip()
                self._progress.skipped += 1
                self._spoilt = True
                return
            self._total += loss

    def update(self, scale: float = 1.0) -> None:
        """End the open mini-batch with its update. scale: of what was added.

        Raises NonFiniteError after `max_skipped_updates` skipped updates in a row, over steps; the learner is then to
        be loaded again from the last checkpoint.
        """
        learner, progress = self._learner, self._progress
        if any(row.active for row in self._added) and not self._spoilt:
            # Each rank has the loss of its own packs; gradients are summed in `learner.update`.
            (total,) = learner.group.sums([self._total])
            with self.clock.stage("optimizer"):
                norm = learner.update(scale)
            if norm is None:
                progress.skipped += 1
            else:
                progress.losses.append(total * scale)
                progress.norms.append(norm)
        self._rows += self._added
        self._added, self._total, self._spoilt = [], 0.0, False
        progress.update += 1
        # Counted over steps: broken weights skip every update, however few a step has.
        limit = self.settings.optimizer.max_skipped_updates
        if learner.skipped_in_row >= limit:
            raise NonFiniteError(
                f"{learner.skipped_in_row} updates in a row had a loss or gradient that is not finite: lower "
                "optimizer.learning_rate, or look for broken weights; nothing of this step was published"
            )

    def metrics(self) -> StepMetrics:
        """Losses and norms are means over the updates that were made, 0 if there was none."""
        return _metrics(self._learner.group, self._rows, self._progress, self.settings, self.clock)


def train_step(
    learner: Learner,
    rows: Sequence[Row],
    settings: StepSettings,
    clock: StageClock,
    check: Callable[[], None] = lambda: None,
    tracer: Tracer | None = None,
) -> StepMetrics:
    """Train on all rows of a batch once, in `mini_batches` updates; returns the step's metrics.

    clock, check, tracer: as in `Step`. Raises NonFiniteError as `Step.update`.
    """
    batches = mini_batches(rows, settings.optimizer.mini_batches)
    step = Step(learner, settings, clock, check, tracer)
    if settings.method in POLICY_GRADIENTS:
        # The first mini-batch needs none: its old policy is the student that computes its gradient.
        step.ask_old_policy(batches[1:])
    for batch in batches:
        # Before anything is cut up: denominators of parts do not add up to that of the whole.
        step.add(batch, denominator_of(batch, settings))
        step.update()
    return step.metrics()


def _shares(learner: Learner, batch: Sequence[Row], settings: StepSettings) -> list[Share]:
    """Of a mini-batch, by rank."""
    limit, largest = settings.optimizer.pass_tokens, learner.model.packing.tree_tokens
    packs = pack_rows([row for row in batch if row.active], min(limit, largest))
    return shares(packs, learner.group.size, limit, largest)


def _later_rows(learner: Learner, batches: Sequence[Sequence[Row]], settings: StepSettings) -> list[list[Row]]:
    """By rank, the rows of these mini-batches that it will need the old policy of."""

    def needed(row: Row) -> bool:
        # A foreign row's old policy is the peer, whose log-probs it brings.
        return row.active and not row.foreign

    if learner.group.size == 1:
        return [[row for batch in batches for row in batch if needed(row)]]
    by_rank: list[list[Row]] = [[] for _ in range(learner.group.size)]
    for batch in batches:
        if any(row.active for row in batch):
            for rank, share in enumerate(_shares(learner, batch, settings)):
                by_rank[rank] += [row for packs in share for pack in packs for row in pack.rows if needed(row)]
    return by_rank


def _backward(
    learner: Learner,
    packs: Sequence[Pack],
    denominator: float,
    settings: StepSettings,
    clock: StageClock,
    progress: _Progress,
) -> float | None:
    """Add the gradient of one micro-batch; its share of the loss, or None if that of any rank is not finite."""
    places = places_of(packs, learner.model.device)
    if settings.method in POLICY_GRADIENTS:
        return _policy_backward(learner, packs, places, denominator, settings, clock, progress)
    group, real = learner.group, counts(packs)
    with clock.stage("teacher"):
        teacher_hidden = learner.teacher.hidden([pack.teacher for pack in packs], places.teacher)
    with clock.stage("student"):
        student_hidden = learner.model.hidden([pack.student for pack in packs], places.student)
        output = learner.model.output_layer(settings.temperature)
        rule = divergence_rule(settings.loss, learner.model.vocabulary)
        taught = learner.teacher.output_layer(settings.temperature)
        divergence, logprobs = distil(student_hidden, teacher_hidden, output, taught, places, rule)
        value = math.nan
        if bool(torch.isfinite(logprobs).all()):
            weights = importance_weights(logprobs, places.rollout_logprobs, places.mask, clip=settings.loss.is_clip)
            loss = _loss(divergence, weights, places, denominator, settings)
            value = float(loss.detach())
        # Before the backward pass, in which ranks may wait for each other: none begins it without the others.
        if group.any(not math.isfinite(value)):
            return None
    # Before it, too: output layers that are shared out over ranks are whole only until then.
    if real and progress.tracer is not None:
        with clock.stage("trace"):
            rows = [row for pack in packs for row in pack.rows]
            progress.tracer.record(
                rows, places, divergence, weights, (student_hidden, output), (teacher_hidden, taught)
            )
    with clock.stage("student"):
        # A rank without a pack of its own makes the pass, too, on a stand-in: others wait for it in every collective of
        # the backward pass. Its gradient is zero.
        (loss if real else 0.0 * loss).backward()  # type: ignore[no-untyped-call]
    if not real:
        return 0.0
    progress.pairs.append((logprobs[places.mask], places.rollout_logprobs[places.mask]))
    return value


def _policy_backward(
    learner: Learner,
    packs: Sequence[Pack],
    places: Places,
    denominator: float,
    settings: StepSettings,
    clock: StageClock,
    progress: _Progress,
) -> float | None:
    """As `_backward`, of a method without a self-teacher."""
    real = counts(packs)
    with clock.stage("student"):
        made = policy_gradient(
            learner.model,
            packs,
            places,
            progress.old,
            _policy_rule(settings),
            denominator=denominator,
            update=progress.update,
            anchor_to=learner.teacher if keeps_teacher(settings.method, settings.grpo) else None,
            on_any=learner.group.any,
            factor=1.0 if real else 0.0,
        )
    if made is None:
        return None
    if not real:
        return 0.0
    progress.pairs.append(made.pair)
    progress.foreign += made.foreign
    progress.used += made.used
    return made.loss


def _loss(
    divergence_P: Tensor, weights_RT: Tensor, places: Places, denominator: float, settings: StepSettings
) -> Tensor:
    """The loss of the rows, from the divergence of each distinct pair of places."""
    return aggregate(
        divergence_P[places.pair_index],
        places.mask,
        torch.ones(len(places.mask), dtype=torch.bool, device=places.mask.device),
        weights=weights_RT,
        aggregation=settings.loss.aggregation,
        denominator=denominator,
    )


def divergence_rule(loss: LossSection, vocabulary: int) -> DivergenceRule:
    """What the settings say of the divergence, for a model of that vocabulary."""
    top_k = None if loss.top_k == "all" else min(loss.top_k, vocabulary)
    return DivergenceRule(alpha=loss.alpha, top_k=top_k, tail=loss.tail)


def _policy_rule(settings: StepSettings) -> PolicyRule:
    return PolicyRule(
        grpo=settings.grpo,
        sharing=settings.hacpo if settings.method == "hacpo" else None,
        temperature=settings.temperature,
        is_clip=settings.loss.is_clip,
        aggregation=settings.loss.aggregation,
    )


def denominator_of(batch: Sequence[Row], settings: StepSettings) -> float:
    """Of the whole mini-batch, its inactive rows included."""
    lengths = torch.tensor([len(row.response) for row in batch])
    mask_BT = torch.arange(max(1, int(lengths.max())))[None] < lengths[:, None]
    # Inactive rows count in `seq_mean`: a batch with few active ones makes a small step; that is intended.
    active_B = torch.tensor([row.active for row in batch])
    return batch_denominator(mask_BT, active_B, settings.loss.aggregation)


def _metrics(
    group: Group, rows: Sequence[Row], progress: _Progress, settings: StepSettings, clock: StageClock
) -> StepMetrics:
    active = [row for row in rows if row.active]
    diagnostics = None
    trainer, engine = (group.joined(_together([pair[side] for pair in progress.pairs]))[None] for side in (0, 1))
    used, foreign = group.sums([progress.used, progress.foreign])
    if trainer.numel():
        everything = torch.ones_like(trainer, dtype=torch.bool)
        diagnostics = importance_diagnostics(trainer, engine, everything, clip=settings.loss.is_clip)
    return StepMetrics(
        loss=_mean(progress.losses),
        grad_norm=_mean(progress.norms),
        active_share=len(active) / max(1, len(rows)),
        tokens=sum(len(row.response) for row in active),
        delta_logprob=diagnostics.mean_abs_log_ratio if diagnostics else 0.0,
        clipped_share=diagnostics.clipped_share if diagnostics else 0.0,
        effective_sample_share=diagnostics.effective_sample_share if diagnostics else 0.0,
        skipped_updates=progress.skipped,
        peer_share=used / foreign if foreign else None,
        seconds=dict(clock.seconds),
    )


def _together(values: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(values)) if values else torch.zeros(0)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
