"""What every rank of a trainer does of a step: the whole of its compute, and no decision.

What always holds: all ranks do the same of it in the same order; each reads batches and checkpoints by itself, and
verifies them; and what fails on one of them, as a file that cannot be read, fails on all.
"""

import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import structlog
from pydantic import TypeAdapter
from transformers import PreTrainedTokenizerBase

from services.trainer import metrics
from services.trainer.batches import Batch, read_batch
from services.trainer.checkpoint import Checkpoints, state_files
from services.trainer.model.learner import Learner, LearnerState
from services.trainer.ranks.group import together
from services.trainer.step.rows import Pair, training_rows
from services.trainer.step.step import StageClock, Step, StepSettings, train_step
from services.trainer.step.streaming import StreamedStep
from services.trainer.step.tracing import RolloutKey, Tracer, chosen_rollouts
from services.trainer.step.trees import Row
from shared.config.baselines import POLICY_GRADIENTS
from shared.contracts.batches import BatchGroup, BatchManifest, BatchSealed, GroupSealed
from shared.contracts.weights import FileEntry, StepMetrics
from shared.files.durable import storage_errors
from shared.files.store import LocalStore, write_file
from shared.modeling.allocator import release_freed
from shared.modeling.logprobs import probe
from shared.obs.faults import fault_point

_ENTRIES = TypeAdapter(list[FileEntry])

log = structlog.get_logger()


@dataclass(frozen=True)
class Made:
    """A step that the learner has made. tracer: None where nothing is traced."""

    batch: Batch
    metrics: StepMetrics
    tracer: Tracer | None


@dataclass(frozen=True)
class Result:
    """state: `published` on rank 0 only where weights are shared out, the rest as a rank has it. probe: see `probe`."""

    state: LearnerState
    probe: tuple[float, ...]


@dataclass
class _UnderWay:
    """A step whose groups are added one by one. positions: of those that were. limited: samples, by reason."""

    step: StreamedStep
    clock: StageClock
    tracer: Tracer | None
    positions: set[int] = field(default_factory=set)
    limited: Counter[str] = field(default_factory=Counter)

    def add(self, position: int, rows: Sequence[Row]) -> None:
        self.positions.add(position)
        self.step.add(rows)
        fault_point("trainer.between-groups")


class StepWork(Protocol):
    """The compute of a trainer, by one rank or by all of them."""

    @property
    def learner(self) -> Learner: ...

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase: ...

    def go_back(self, step: int | None) -> None:
        """Take the learner to the whole checkpoint of `step`; None: as the run began. Raises StorageError or
        ModelError."""

    def add(self, sealed: GroupSealed, group: BatchGroup, check: Callable[[], None]) -> None:
        """Begin the step that comes next with this group, or go on with it. check: as in `train_step`.

        Until `train` ends it, or `go_back` forgets it, the learner is of no version. Raises StorageError or
        NonFiniteError; then it can only be forgotten.
        """

    def train(self, sealed: BatchSealed, clock: StageClock, check: Callable[[], None], *, traced: bool) -> Made:
        """Make the step of a sealed batch; one that is begun must have begun as the batch says. check: as in
        `train_step`.

        Raises StorageError or MalformedMessageError where the batch cannot be used, NonFiniteError as `train_step`.
        """

    def result(self, *, whole: bool) -> Result:
        """What the learner is now. whole: as in `Learner.state`; the state shares memory with the learner."""

    def adopt(self, step: int) -> None:
        """Take up the version of the checkpoint of `step`; teacher and moments stay. Raises StorageError or
        ModelError."""

    def write(self, directory: Path) -> Sequence[FileEntry]:
        """Write what the other ranks hold of the last whole `result` there, durably. Raises StorageError."""


class RankWork:
    """The part of one rank. store: where sealed batches lie."""

    def __init__(
        self,
        learner: Learner,
        tokenizer: PreTrainedTokenizerBase,
        store: LocalStore,
        checkpoints: Checkpoints,
        settings: StepSettings,
        *,
        run: str,
        shorten_prompts: bool,
    ) -> None:
        self.learner = learner
        self.tokenizer = tokenizer
        self._store = store
        self._checkpoints = checkpoints
        self._settings = settings
        self._run = run
        self._shorten = shorten_prompts
        self._group = learner.group
        self._state: LearnerState | None = None
        self._begun: _UnderWay | None = None

    def go_back(self, step: int | None) -> None:
        self._state = self._begun = None
        if step is None:
            # No whole checkpoint yet: from the run's beginning, with all batches again.
            self.learner.restart()
            return
        with together(self._group):
            state = self._checkpoints.load(self._checkpoints.read(step), self._group.rank, self._shards)
        self.learner.load(state)

    def add(self, sealed: GroupSealed, group: BatchGroup, check: Callable[[], None]) -> None:
        self._state = None
        if self._begun is None:
            self._begin_phase(sealed.phase_start)
            self._begun = self._under_way(sealed.groups, StageClock(), check, traced=True)
        begun = self._begun
        # What one rank cannot read fails here on all; found later, the others would wait for it in the middle of a
        # pass.
        with begun.clock.stage("load"), together(self._group):
            rows, limited = self._rows(group, sealed.position)
        begun.limited += limited
        if begun.tracer is not None:
            begun.tracer.choose(self._chosen(sealed.student, sealed.step, [group], sealed.position))
        begun.add(sealed.position, rows)

    def train(self, sealed: BatchSealed, clock: StageClock, check: Callable[[], None], *, traced: bool) -> Made:
        self._state = None
        # Taken out before anything can fail: what was added to may only be ended or forgotten.
        begun, self._begun = self._begun, None
        with clock.stage("load"), together(self._group):
            batch = read_batch(self._store, sealed, self._run)
            rows, limited = self._missing(batch, begun.positions if begun is not None else ())
        fault_point("trainer.before-step")
        if begun is None:
            self._begin_phase(batch.manifest.phase_start)
            if batch.order is not None:
                begun = self._under_way(batch.manifest.groups, StageClock(), check, traced=traced)
        if begun is None:
            chosen = self._chosen(sealed.student, sealed.step, batch.groups) if traced else []
            tracer = Tracer(self.tokenizer, chosen) if chosen else None
            everything = [row for each in rows.values() for row in each]
            done = train_step(self.learner, everything, self._settings, clock, check, tracer)
        else:
            begun.clock.take(clock)
            limited += begun.limited
            done, tracer = self._end(begun, batch, rows)
        for reason, count in limited.items():
            metrics.SAMPLES.labels(reason).inc(count)
            log.warning("samples limited", step=sealed.step, reason=reason, count=count)
        if self._group.rank > 0:
            fault_point("trainer.rank-mid-step")
        if tracer is not None and self._group.size > 1:
            tracer.take(self._group.texts(tracer.told()))
        return Made(batch, done, tracer)

    def result(self, *, whole: bool) -> Result:
        # No copy: the state is written before the next update changes what it shares memory with.
        self._state = self.learner.state(copy=False, whole=whole)
        probed = tuple(probe(self.learner.model.network, self.tokenizer))
        # The passes of this step are over, on every rank, and the student's turn comes.
        release_freed()
        return Result(self._state, probed)

    def adopt(self, step: int) -> None:
        self._state = None
        with together(self._group):
            version = self._checkpoints.published(self._checkpoints.read(step))
        self.learner.model.set_tensors(version, {})

    def write(self, directory: Path) -> Sequence[FileEntry]:
        entries: list[FileEntry] = []
        with together(self._group):
            # Rank 0's own files are among those that its checkpoint writes.
            if self._group.rank > 0 and self._shards > 1 and self._state is not None:
                files = state_files(self._state, self._group.rank, self._shards)
                # Its disk may be another machine's than rank 0's: what fills up is said to all, and tried again by all.
                with storage_errors(directory, 0):
                    entries = [write_file(directory / name, content) for name, content in files.items()]
                    fault_point("trainer.rank-before-seal")
        # By all ranks, also by one that wrote nothing: an exchange that one of them leaves out never ends.
        said = self._group.texts(json.dumps([entry.model_dump() for entry in entries]))
        return [entry for text in said for entry in _ENTRIES.validate_json(text)]

    @property
    def _shards(self) -> int:
        return self._group.size if self.learner.model.sharded else 1

    def _begin_phase(self, phase_start: bool) -> None:
        if phase_start:
            self.learner.begin_phase(
                teacher=self._settings.loss.teacher_at_phase_start, optimizer=self._settings.optimizer.at_phase_start
            )

    def _under_way(self, groups: int, clock: StageClock, check: Callable[[], None], *, traced: bool) -> _UnderWay:
        """A step of which nothing is added yet."""
        tracer = Tracer(self.tokenizer, ()) if traced else None
        step = Step(self.learner, self._settings, clock, check, tracer)
        return _UnderWay(StreamedStep(step, groups), clock, tracer)

    def _end(
        self, begun: _UnderWay, batch: Batch, rows: Mapping[int, Sequence[Row]]
    ) -> tuple[StepMetrics, Tracer | None]:
        """Add what is missing, in the batch's order, and end the step."""
        assert batch.order is not None
        tracer = begun.tracer
        if tracer is not None:
            tracer.choose(self._chosen(batch.manifest.student, batch.manifest.step, batch.groups))
        for position in begun.step.in_turn(batch.order):
            if position in rows:
                begun.add(position, rows[position])
        return begun.step.finish(), tracer if tracer is not None and tracer.chosen else None

    def _missing(self, batch: Batch, added: Collection[int]) -> tuple[dict[int, list[Row]], Counter[str]]:
        """Rows of the groups that were not added yet, by position, and how many samples were limited, by reason."""
        rows: dict[int, list[Row]] = {}
        limited: Counter[str] = Counter()
        for position, group in enumerate(batch.groups):
            if position not in added:
                rows[position], found = self._rows(group, position, _pair(batch.manifest))
                limited += found
        return rows, limited

    def _rows(self, group: BatchGroup, position: int, pair: Pair | None = None) -> tuple[list[Row], Counter[str]]:
        return training_rows(
            [group],
            self.tokenizer,
            context_tokens=self.learner.model.context_tokens,
            shorten=self._shorten,
            pair=pair,
            first=position,
        )

    def _chosen(self, student: str, step: int, groups: Sequence[BatchGroup], first: int = 0) -> list[RolloutKey]:
        """What is traced of them; nothing of a policy gradient, which has no self-teacher."""
        if self._settings.method in POLICY_GRADIENTS:
            return []
        return chosen_rollouts(student, step, groups, self._settings.loss.trace_share, first=first)


def _pair(manifest: BatchManifest) -> Pair | None:
    known = manifest.capabilities
    if not known:
        return None
    (peer,) = known.keys() - {manifest.student}
    return Pair(known[manifest.student], known[peer])
