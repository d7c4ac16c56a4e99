"""What every rank of a trainer does of a step: the whole of its compute, and no decision.

What always holds: all ranks do the same of it in the same order; each reads batches and checkpoints by itself, and
verifies them; and what fails on one of them, as a file that cannot be read, fails on all.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
from services.trainer.step.step import StageClock, StepSettings, train_step
from services.trainer.step.tracing import Tracer, chosen_rollouts
from services.trainer.step.trees import Row
from shared.config.baselines import POLICY_GRADIENTS
from shared.contracts.batches import BatchManifest, BatchSealed
from shared.contracts.weights import FileEntry, StepMetrics
from shared.files.store import LocalStore, write_file
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


class StepWork(Protocol):
    """The compute of a trainer, by one rank or by all of them."""

    @property
    def learner(self) -> Learner: ...

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase: ...

    def go_back(self, step: int | None) -> None:
        """Take the learner to the whole checkpoint of `step`; None: as the run began. Raises StorageError or
        ModelError."""

    def train(self, sealed: BatchSealed, clock: StageClock, check: Callable[[], None], *, traced: bool) -> Made:
        """Make the step of a sealed batch. check: as in `train_step`.

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

    def go_back(self, step: int | None) -> None:
        self._state = None
        if step is None:
            # No whole checkpoint yet: from the run's beginning, with all batches again.
            self.learner.restart()
            return
        with together(self._group):
            state = self._checkpoints.load(self._checkpoints.read(step), self._group.rank, self._shards)
        self.learner.load(state)

    def train(self, sealed: BatchSealed, clock: StageClock, check: Callable[[], None], *, traced: bool) -> Made:
        self._state = None
        with clock.stage("load"), together(self._group):
            batch, rows = self._rows(sealed)
        fault_point("trainer.before-step")
        if batch.manifest.phase_start:
            self.learner.begin_phase(
                teacher=self._settings.loss.teacher_at_phase_start, optimizer=self._settings.optimizer.at_phase_start
            )
        tracer = self._tracer(batch) if traced else None
        done = train_step(self.learner, rows, self._settings, clock, check, tracer)
        if self._group.rank > 0:
            fault_point("trainer.rank-mid-step")
        if tracer is not None and self._group.size > 1:
            tracer.take(self._group.texts(tracer.told()))
        return Made(batch, done, tracer)

    def result(self, *, whole: bool) -> Result:
        # No copy: the state is written before the next update changes what it shares memory with.
        self._state = self.learner.state(copy=False, whole=whole)
        return Result(self._state, tuple(probe(self.learner.model.network, self.tokenizer)))

    def adopt(self, step: int) -> None:
        self._state = None
        with together(self._group):
            version = self._checkpoints.published(self._checkpoints.read(step))
        self.learner.model.set_tensors(version, {})

    def write(self, directory: Path) -> Sequence[FileEntry]:
        entries: list[FileEntry] = []
        with together(self._group):
            if self._group.rank > 0 and self._shards > 1 and self._state is not None:
                files = state_files(self._state, self._group.rank, self._shards)
                entries = [write_file(directory / name, content) for name, content in files.items()]
                fault_point("trainer.rank-before-seal")
        said = self._group.texts(json.dumps([entry.model_dump() for entry in entries]))
        return [entry for text in said for entry in _ENTRIES.validate_json(text)]

    @property
    def _shards(self) -> int:
        return self._group.size if self.learner.model.sharded else 1

    def _rows(self, sealed: BatchSealed) -> tuple[Batch, list[Row]]:
        batch = read_batch(self._store, sealed, self._run)
        rows, events = training_rows(
            batch.groups,
            self.tokenizer,
            context_tokens=self.learner.model.context_tokens,
            shorten=self._shorten,
            pair=_pair(batch.manifest),
        )
        for reason, count in events.items():
            metrics.SAMPLES.labels(reason).inc(count)
            log.warning("samples limited", step=sealed.step, reason=reason, count=count)
        return batch, rows

    def _tracer(self, batch: Batch) -> Tracer | None:
        manifest, share = batch.manifest, self._settings.loss.trace_share
        chosen = chosen_rollouts(manifest.student, manifest.step, batch.groups, share)
        return Tracer(self.tokenizer, chosen) if chosen and self._settings.method not in POLICY_GRADIENTS else None


def _pair(manifest: BatchManifest) -> Pair | None:
    known = manifest.capabilities
    if not known:
        return None
    (peer,) = known.keys() - {manifest.student}
    return Pair(known[manifest.student], known[peer])
