"""Applying sealed batches: one step each, on the checkpoint before it, then a checkpoint and a version of its own.

What always holds: step k is trained on the state after step k-1 and on nothing else; when a step is refused
the learner is taken back to the last checkpoint; what has no checkpoint was never applied. Where that is not a
whole one, the state is made again: from the last whole one and the batches since, which are all on disk.

A step may be begun with groups that are sealed ahead of its batch. That is a head start and nothing else: the batch
says which groups there are and in which order they are added up, and where the step has begun with anything else it is
made again from the checkpoint, as it is where the trainer died. Either way the weights are the same, bit for bit.
"""

import math
import threading
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import structlog

from services.trainer import metrics
from services.trainer.batches import Batch, read_group, read_manifest, sealed_batch
from services.trainer.checkpoint import CheckpointManifest, Checkpoints, publish
from services.trainer.ranks.group import RankLostError
from services.trainer.step.step import NonFiniteError, StageClock, StepSettings
from services.trainer.step.tracing import Tracer
from services.trainer.work import Made, Result, StepWork
from shared.contracts.batches import BatchManifest, BatchSealed, GroupSealed, positions_of
from shared.contracts.ids import version_name
from shared.contracts.traces import step_trace
from shared.contracts.weights import StepDone, WeightsManifest, WeightsPublished
from shared.errors import ConfigError, FencedError, MalformedMessageError, OpcodError, StorageError, UnavailableError
from shared.files.batches import batch_directory
from shared.files.durable import atomic_write
from shared.files.store import LocalStore
from shared.modeling.adapters import checksum
from shared.modeling.chat import rendering_of
from shared.obs.faults import fault_point

# With pauses that double from FIRST_PAUSE_S: 15 s in all for a full disk to be freed.
STORAGE_ATTEMPTS = 5
FIRST_PAUSE_S = 1.0
CONFIRM_PAUSE_S = 1.0

log = structlog.get_logger()

Written = TypeVar("Written")


class StepRefusedError(OpcodError):
    """This batch cannot be trained on; the run must be told."""


class Fence(Protocol):
    """The right to write. check raises FencedError once it is gone."""

    @property
    def token(self) -> int: ...

    def check(self) -> None: ...

    def confirm(self) -> None:
        """As check, but asks the server. Raises UnavailableError without an answer."""
        ...


def begins_with(manifest: BatchManifest, begun: Sequence[GroupSealed]) -> bool:
    """Whether the batch's order begins with these groups, each at the place that it has in the batch."""
    order = manifest.order or ()
    positions = positions_of(added.problem_id for added in order)
    found = [(each.group, each.position, each.groups, each.phase_start, each.base_version) for each in begun]
    return found == [
        (added, positions[added.problem_id], len(order), manifest.phase_start, manifest.base_version)
        for added in order[: len(begun)]
    ]


class StudentTrainer:
    """One student's training. Used by one thread."""

    def __init__(
        self,
        work: StepWork,
        store: LocalStore,
        checkpoints: Checkpoints,
        settings: StepSettings,
        *,
        run: str,
        student: str,
        base_model: str,
        stopping: threading.Event,
    ) -> None:
        self._work = work
        self._store = store
        self._checkpoints = checkpoints
        self._settings = settings
        self._run = run
        self._student = student
        self._base_model = base_model
        self._stopping = stopping
        # What happens after a step's report is made stands in the report of the next step.
        self._late = StageClock()
        # Whether the learner is what `checkpoint` says: not where making it so was broken off.
        self._restored = True
        # Groups of the next step that the learner has begun with; the step that is left for its batch.
        self._begun: list[GroupSealed] = []
        self._left = 0
        self.checkpoint: CheckpointManifest | None = None

    @property
    def step(self) -> int:
        """The last applied step, 0 at the start."""
        return 0 if self.checkpoint is None else self.checkpoint.step

    @property
    def version(self) -> str:
        return version_name(self._student, self.step)

    @property
    def rendering(self) -> str:
        """What messages become as token ids here."""
        return rendering_of(self._work.tokenizer)

    def restore(self, say: Callable[[str], None] = lambda _: None) -> None:
        """Go on from the newest checkpoint; say: told what takes long meanwhile.

        Raises StorageError or ModelError if there is a checkpoint, but none usable, StepRefusedError if a step that
        has to be made again cannot be; `apply` then tries that again before anything else.
        """
        say("reading the checkpoint")
        self.checkpoint = self._checkpoints.newest()
        metrics.STEP.set(self.step)
        if self.checkpoint is not None:
            self._reload(say)

    def move(self, device: str) -> None:
        """Off the GPU, and back, between steps. device: "cuda" or "cpu"."""
        self._work.learner.move(device)

    def sealed(self, step: int) -> BatchSealed:
        """The batch of a step that lies on disk. Raises StorageError where there is none, or another one."""
        return sealed_batch(self._store, self._student, step)

    def done(self, step: int) -> StepDone:
        """The report of an applied step, as it was first made."""
        assert self.checkpoint is not None and 1 <= step <= self.step
        return self.checkpoint.done[step - 1]

    def add(self, sealed: GroupSealed, payload: bytes, fence: Fence) -> None:
        """Begin step `step + 1` with a group that is sealed ahead of its batch, or go on with it.

        What fails here is left for the batch: it fails again there, where it is told. Raises FencedError if another
        trainer took over, StepRefusedError as `restore`.
        """
        if sealed.step != self.step + 1:
            raise ValueError(f"expected a group of step {self.step + 1}, got one of {sealed.step}")
        # Not worth making steps again, where that is what is left to be done: its batch does, and tells if it cannot.
        if not self._restored or self._left == sealed.step or sealed in self._begun:
            return
        reason = None
        try:
            group = read_group(sealed, payload)
            if sealed.group.problem_id in {each.group.problem_id for each in self._begun}:
                raise StorageError(f"the group of {sealed.group.problem_id} was sealed anew")
            self._begun.append(sealed)
            self._work.add(sealed, group, fence.check)
        except (FencedError, RankLostError):
            raise
        except Exception as error:  # noqa: BLE001 - its batch fails by it, too, and tells
            reason = f"{type(error).__name__}: {error}"
        # Not sooner: an error holds on to what the model had of the group.
        if reason is not None:
            self._drop(sealed.step, reason)

    def _drop(self, step: int, reason: str) -> None:
        """Forget what the step was begun with, and leave the rest of it for its batch."""
        log.warning("begun step dropped, it is made of its batch", step=step, groups=len(self._begun), reason=reason)
        self._left = step
        self._reload()

    def apply(self, sealed: BatchSealed, fence: Fence) -> None:
        """Train on the batch of step `step + 1` and write its checkpoint.

        Raises StepRefusedError if the batch or the training is bad, FencedError if another trainer took over,
        StorageError if the checkpoint cannot be written, UnavailableError if it is told to stop while the server that
        must confirm the lease does not answer. The step is then not applied.
        """
        if sealed.step != self.step + 1:
            raise ValueError(f"expected step {self.step + 1}, got {sealed.step}")
        if not self._restored:
            self._reload()
        try:
            self._apply(sealed, fence)
        except (FencedError, UnavailableError, RankLostError):
            raise  # this trainer ends; who comes next reads the state from the checkpoint
        except OpcodError:
            self._left = sealed.step
            self._reload()
            raise

    def publish(self) -> WeightsPublished:
        """Write the version of the last checkpoint, if it is not there. Raises StorageError."""
        checkpoint = self.checkpoint
        assert checkpoint is not None
        with self._late.stage("publish"):
            return self._retried(lambda: publish(self._store, self._checkpoints, checkpoint))

    def _apply(self, sealed: BatchSealed, fence: Fence) -> None:
        clock = StageClock()
        # Times of the last step that became known only after its report was made.
        clock.seconds.update(self._late.seconds)
        if self._begun:
            self._check_begun(sealed)
        made = self._make(sealed, clock, fence.check, traced=True)
        self._late = StageClock()
        with self._late.stage("checkpoint"):
            self.checkpoint = self._commit(made, fence)
        metrics.count_step(made.metrics, self.step)
        if self._begun:
            log.info("step was begun ahead of its batch", step=self.step, groups=len(self._begun))
        metrics.AHEAD.labels("kept").inc(len(self._begun))
        self._begun = []

    def _check_begun(self, sealed: BatchSealed) -> None:
        """A step that has begun otherwise than the batch says is dropped, or where what it says cannot be read."""
        try:
            manifest = read_manifest(self._store, sealed, self._run)
        except StorageError as error:
            # Read again whole, it is refused or has become readable: nobody knows then what was begun with.
            self._drop(sealed.step, str(error))
            return
        if not begins_with(manifest, self._begun):
            self._drop(sealed.step, "its batch says another order, or other groups")

    def _make(self, sealed: BatchSealed, clock: StageClock, check: Callable[[], None], *, traced: bool) -> Made:
        try:
            return self._work.train(sealed, clock, check, traced=traced)
        except (StorageError, MalformedMessageError, ConfigError) as error:
            raise StepRefusedError(f"{type(error).__name__}: {error}") from error
        except NonFiniteError as error:
            raise StepRefusedError(str(error)) from error

    def _write_trace(self, batch: Batch, tracer: Tracer) -> None:
        """Before the checkpoint: a step that is applied has its traces; one that is made again, the same ones."""
        trace = tracer.step_trace(batch.manifest, batch.sha256, self._settings.loss.trace_share)
        path = self._store.root / step_trace(self._student, batch.manifest.step)
        self._retried(lambda: atomic_write(path, trace.model_dump_json().encode()))

    def _commit(self, made: Made, fence: Fence) -> CheckpointManifest:
        batch, learner = made.batch, self._work.learner
        result = self._work.result(whole=batch.manifest.step % self._settings.optimizer.checkpoint_every == 0)
        weights = self._weights(batch, result)
        done = StepDone(
            student=self._student,
            step=weights.step,
            version=weights.version,
            checksum=weights.checksum,
            batch_sha256=batch.sha256,
            metrics=made.metrics,
        )
        # All of them, each time: an older step may be asked for again, and its checkpoint is pruned by then.
        reports = (*(self.checkpoint.done if self.checkpoint else ()), done)
        # The last moment before anything is written, and the only one that asks the server.
        self._confirm(fence)
        if made.tracer is not None:
            self._write_trace(batch, made.tracer)
        files = learner.model.trained.files(result.state.published, self._base_model)
        shards = learner.group.size if learner.model.sharded else 1
        fault_point("trainer.before-checkpoint")
        return self._retried(
            lambda: self._checkpoints.commit(
                result.state,
                token=fence.token,
                weights=weights,
                files=files,
                done=reports,
                shards=shards,
                beside=self._work.write if shards > 1 else lambda _: (),
            )
        )

    def _confirm(self, fence: Fence) -> None:
        """Wait for the server as long as the lease may be ours: the step is made, and would be made again."""
        while True:
            try:
                return fence.confirm()
            except UnavailableError as error:
                log.warning("the lease is not confirmed, the finished step waits", error=str(error))
                if self._stopping.wait(CONFIRM_PAUSE_S):
                    raise

    def _weights(self, batch: Batch, result: Result) -> WeightsManifest:
        step, published = batch.manifest.step, result.state.published
        # A probe through the network, too: finite weights may still overflow in a forward pass.
        probed = result.probe
        if not all(map(math.isfinite, probed)) or not all(bool(each.isfinite().all()) for each in published.values()):
            raise StepRefusedError(
                f"the weights after step {step} are not finite or give no finite log-probs (probe {list(probed)}): "
                "lower optimizer.learning_rate; they were not published"
            )
        return WeightsManifest(
            run=self._run,
            student=self._student,
            version=version_name(self._student, step),
            parent=version_name(self._student, step - 1),
            kind=self._work.learner.model.trained.kind,
            step=step,
            batch_sha256=batch.sha256,
            base_model=self._base_model,
            files=(),
            checksum=checksum(published),
            probe=probed,
        )

    def _reload(self, say: Callable[[str], None] = lambda _: None) -> None:
        metrics.AHEAD.labels("dropped").inc(len(self._begun))
        self._restored, self._begun = False, []
        last = self.checkpoint
        since = self._go_back(self.step)
        # The learner is now at `since`; what a checkpoint that is not whole leaves out is trained again.
        if last is not None:
            self._repeat(last, since, say)
        self._restored = True

    def _go_back(self, limit: int) -> int:
        """To the newest whole checkpoint up to step `limit` that can be loaded, else the run's beginning; its step."""
        for step in self._checkpoints.whole_steps(limit):
            try:
                self._work.go_back(step)
            except StorageError as error:
                log.error("whole checkpoint broken, going back", step=step, error=str(error))
            else:
                return step
        self._work.go_back(None)
        return 0

    def _repeat(self, last: CheckpointManifest, since: int, say: Callable[[str], None]) -> None:
        """Make the steps after `since` again, up to the checkpoint `last`, whose version is what counts."""
        for done in last.done[since:]:
            sealed = BatchSealed(
                student=self._student,
                step=done.step,
                uri=batch_directory(self._student, done.step),
                sha256=done.batch_sha256,
                base_version=version_name(self._student, done.step - 1),
            )
            say(f"making step {done.step} again, up to {last.step}")
            try:
                # No fence to check and nothing traced: of a step that is made again nothing is written.
                self._make(sealed, StageClock(), lambda: None, traced=False)
            except StepRefusedError as error:
                raise StepRefusedError(
                    f"step {done.step} has to be made again, as no whole checkpoint up to step {last.step} is newer, "
                    f"and cannot be: {error}"
                ) from error
            log.info("step made again", step=done.step, last=last.step)
        # Another machine or library rounds otherwise. The version that students hold is what counts then.
        if since < last.step and checksum(self._work.result(whole=False).state.published) != last.weights.checksum:
            log.warning(
                "the steps came out otherwise than before; going on from the version", version=last.weights.version
            )
            self._work.adopt(last.step)

    def _retried(self, write: Callable[[], Written]) -> Written:
        """A full disk may be freed: try again with growing pauses, and give up with the last error."""
        for attempt in range(1, STORAGE_ATTEMPTS):
            try:
                return write()
            except StorageError as error:
                pause_s = FIRST_PAUSE_S * 2 ** (attempt - 1)
                metrics.STORAGE_RETRIES.inc()
                log.error("cannot write, trying again", error=str(error), attempt=attempt, pause_s=pause_s)
                if self._stopping.wait(pause_s):
                    raise
        return write()
