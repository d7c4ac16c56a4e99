"""The trainer's loop: take sealed batches, apply each exactly once and in order, and announce the version.

- `Consumer`: the loop. Batch k is applied on checkpoint k-1 only. One that is applied already is answered with the
  report that was made then; one that comes early is kept, renewed and unanswered, until its turn; none is skipped,
  and none is acknowledged before its version is announced or its refusal is said. Groups that come ahead of a batch are
  begun with while there is no batch to apply, and kept until its step is applied: who takes over begins with them, too.
- `TrainerBoard`: what a trainer says of itself, on /readyz and in its heartbeat.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import structlog

from services.trainer import metrics
from services.trainer.lease import LeaseFence
from services.trainer.trainer import StepRefusedError, StudentTrainer
from shared.bus.keys import BROKER, RESULTS, TRAINER, train
from shared.bus.leases import LeaseKeeper
from shared.bus.port import Bus, Delivery
from shared.bus.turns import CardTurn
from shared.clock import Clock
from shared.contracts.batches import BatchSealed, GroupSealed
from shared.contracts.envelope import Message
from shared.contracts.heartbeats import TRAINER_READY, WAITS_FOR_TURN, Heartbeat
from shared.contracts.weights import StepFailed
from shared.errors import OpcodError, StorageError, UnavailableError, presentable, reason
from shared.modeling.allocator import ran_out
from shared.obs.faults import fault_point

log = structlog.get_logger()


@dataclass
class TrainerBoard:
    """Written by the trainer's thread, read by others. `version` is what the last applied step made."""

    state: str = "starting"
    version: str | None = None
    rendering: str | None = None

    def problem(self) -> str | None:
        """Why it is not ready, or None."""
        return None if self.state in TRAINER_READY else self.state


def trainer_heartbeat(board: TrainerBoard, clock: Clock, *, student: str, replica: str, url: str | None) -> Heartbeat:
    return Heartbeat(
        service=f"trainer-{student}",
        replica=replica,
        state=board.state,
        url=url,
        version=board.version,
        rendering=board.rendering,
        at=clock.wall_s(),
    )


TAKE_LIMIT = 4
BLOCK_S = 1.0
"""Longest wait for a message, and so for a stop to be noticed."""

RETRY_S = 1.0
"""Pause before the next try while the bus does not answer."""

MISSED_AFTER_LEASES = 4
"""For so long a batch that is there already waits for the one before it to come."""

MAX_REASON_CHARS = 1000


@dataclass
class Held:
    """A sealed batch in hand, or a group ahead of one. `lost` is set when it is not ours any more. begun: of a group,
    that nothing is left to be done with it before its batch."""

    delivery: Delivery
    sealed: BatchSealed | GroupSealed
    lost: threading.Event
    begun: bool = False


def unforeseen(error: Exception) -> str:
    """Why a step was not made, of an error that is none of ours."""
    told = presentable(f"{type(error).__name__}: {reason(error)}")
    if ran_out(error):
        told += (
            "; set a lower optimizer.micro_batch_tokens for the next run, give the trainer a GPU of its own, or free "
            "what else is on this one; the run goes on when it is resumed"
        )
    return told


class Consumer:
    """Everything runs in the thread that calls `run`."""

    def __init__(
        self,
        bus: Bus,
        trainer: StudentTrainer,
        fence: LeaseFence,
        keeper: LeaseKeeper,
        board: TrainerBoard,
        *,
        student: str,
        name: str,
        lease_s: float,
        turn: CardTurn | None = None,
        device: str = "cpu",
    ) -> None:
        """turn: on the GPU that it shares; `trainer` is off it between its turns. device: "cuda" or "cpu", where it
        works."""
        self._turn = turn
        self._device = device
        self._bus = bus
        self._trainer = trainer
        self._fence = fence
        self._keeper = keeper
        self._board = board
        self._student = student
        self._name = name
        self._lease_s = lease_s
        self._held: list[Held] = []
        self._made_up = 0
        self._early_since_s: float | None = None

    def run(self, stopping: threading.Event, floor: int) -> None:
        """Work until `stopping`. floor: the highest fencing token on disk.

        Raises FencedError when another trainer took over, StorageError when nothing can be written any more.
        """
        try:
            if self._begin(stopping, floor):
                self._work(stopping)
        finally:
            self._end()

    def _begin(self, stopping: threading.Event, floor: int) -> bool:
        """Get the lease, go on from the last checkpoint, and announce its version once more: the server may have
        lost it, or this trainer died before it could."""
        self._board.state = "waiting for the lease"
        while not stopping.is_set():
            try:
                self._bus.create_queue(train(self._student), TRAINER)
                self._bus.create_queue(RESULTS, BROKER)
                if self._fence.try_acquire(floor):
                    break
                # A third of the lease: the one of a trainer that died is taken over soon after it ran out.
                stopping.wait(self._lease_s / 3)
            except UnavailableError as error:
                self._pause(stopping, error)
        if stopping.is_set():
            return False
        # Not before the lease: until then another trainer may still write the checkpoint that is to be read.
        self._restore(stopping)
        self._tell()
        log.info("ready", step=self._trainer.step, token=self._fence.token)
        if self._trainer.step:
            self._until_answered(stopping, self._announce)
        return not stopping.is_set()

    def _restore(self, stopping: threading.Event) -> None:
        """A step that has to be made again and cannot be is told as one that is refused, so that the run stands with
        the reason. It is tried again with the next batch: one comes when the run is resumed."""
        try:
            self._in_turn(stopping, lambda: self._trainer.restore(self._say))
        except StepRefusedError as error:
            failed = self._failed(self._trainer.step + 1, str(error))
            self._until_answered(stopping, lambda: self._bus.publish(RESULTS, failed))
        except (OpcodError, OSError):
            raise
        except Exception as error:
            failed = self._failed(self._trainer.step + 1, unforeseen(error))
            with suppress(UnavailableError):
                self._bus.publish(RESULTS, failed)
            raise

    def _in_turn(self, stopping: threading.Event, work: Callable[[], object]) -> bool:
        """Do it on the device, in our turn if it is shared; False if `stopping` came first.

        Whatever ends this process leaves its turn to run out: the card is free only once the process is gone.
        """
        if self._turn is None:
            work()
            return True
        before = self._board.state
        if before in TRAINER_READY:
            self._board.state = WAITS_FOR_TURN
        if not self._turn.wait(stopping, self._fence.check):
            return False
        self._board.state = before
        self._trainer.move(self._device)
        try:
            work()
        except StepRefusedError:
            self._leave_card(self._turn)
            raise
        self._leave_card(self._turn)
        return True

    def _leave_card(self, turn: CardTurn) -> None:
        self._trainer.move("cpu")
        turn.give_back()

    def _until_answered(self, stopping: threading.Event, call: Callable[[], object]) -> None:
        while not stopping.is_set():
            try:
                call()
                return
            except UnavailableError as error:
                self._pause(stopping, error)

    def _say(self, state: str) -> None:
        self._board.state = state

    def _work(self, stopping: threading.Event) -> None:
        while not stopping.is_set():
            self._fence.check()
            try:
                self._collect()
                self._handle_next(stopping)
                self._tell()
            except UnavailableError as error:
                self._pause(stopping, error)

    def _collect(self) -> None:
        """Take what is there; wait only if nothing in hand can be handled."""
        for held in [held for held in self._held if held.lost.is_set()]:
            log.warning("delivery lost, it will come again", step=held.sealed.step)
            # Not only forgotten: the bus hands out nothing that it takes to be in our hands.
            self._bus.release(held.delivery)
            self._held.remove(held)
        # Early ones do not count as work: without the batch before them there is nothing to do but wait.
        block_s = 0.0 if self._next() else BLOCK_S
        queue = (train(self._student), TRAINER)
        foreign: list[Delivery] = []
        for delivery in self._bus.take([queue], self._name, limit=TAKE_LIMIT, block_s=block_s):
            sealed = delivery.message
            if not isinstance(sealed, BatchSealed | GroupSealed) or sealed.student != self._student:
                foreign.append(delivery)
                continue
            if sealed.step > self._trainer.step + 1:
                log.warning("batch came early, it waits", step=sealed.step, applied=self._trainer.step)
                self._made_up = 0
            self._held.append(Held(delivery, sealed, self._keeper.hold(delivery)))
        # Last: a bus that does not answer here must not keep a batch of the same take from its turn.
        for delivery in foreign:
            reason = f"expected BatchSealed or GroupSealed of student {self._student}, got {delivery.message!r}"
            self._bus.dead_letter(delivery, reason[:MAX_REASON_CHARS])
        metrics.EARLY.set(sum(held.sealed.step > self._trainer.step + 1 for held in self._held))

    def _next(self) -> Held | None:
        """The lowest batch in hand, unless it is early; without one, a group of the step that comes next."""
        due = [held for held in self._held if held.sealed.step <= self._trainer.step + 1]
        batches = [held for held in due if isinstance(held.sealed, BatchSealed)]
        if batches:
            return min(batches, key=lambda held: held.sealed.step)
        # In the order in which they came, which is that of their batch.
        return next((held for held in due if not held.begun or held.sealed.step <= self._trainer.step), None)

    def _handle_next(self, stopping: threading.Event) -> None:
        held = self._next()
        if held is None:
            self._make_up(stopping)
            return
        self._early_since_s = None
        if isinstance(held.sealed, GroupSealed):
            self._begin_with(held, held.sealed)
            return
        if held.sealed.step > self._trainer.step:
            # Told and acknowledged: delivered again it would be refused again. The broker pauses the run.
            if not self._applied(stopping, held.sealed, lambda reason: self._refuse(held, reason)):
                return
        else:
            metrics.STEPS.labels("repeated").inc()
        self._answer(held, held.sealed)

    def _applied(self, stopping: threading.Event, sealed: BatchSealed, refuse: Callable[[str], None]) -> bool:
        """Whether the step was applied; False where `stopping` came first, or it is refused."""
        self._board.state = "training"
        try:
            return self._in_turn(stopping, lambda: self._trainer.apply(sealed, self._fence))
        except StepRefusedError as error:
            refuse(str(error))
            return False
        except (OpcodError, OSError):
            raise
        except Exception as error:
            # Refused, too, or who comes next would fail at it, and so on. It ends this process: what is left on the
            # device, and which ranks wait for which, nobody knows.
            with suppress(UnavailableError):
                refuse(unforeseen(error))
            raise

    def _make_up(self, stopping: threading.Event) -> None:
        """Make the step that those in hand come after, where its batch was acknowledged and its checkpoint is gone: it
        does not come again. Once, until the run is resumed, for which the batch in hand is announced anew."""
        step = self._trainer.step + 1
        if step <= self._made_up or not any(isinstance(held.sealed, BatchSealed) for held in self._held):
            self._early_since_s = None
            return
        now_s = time.monotonic()
        self._early_since_s = self._early_since_s or now_s
        # One that a trainer which died had in hand comes by itself when its lease is over.
        if now_s - self._early_since_s < MISSED_AFTER_LEASES * self._lease_s:
            return
        self._made_up, self._early_since_s = step, None
        log.warning("batch taken from the files, as its checkpoint is gone", step=step)

        def refuse(reason: str) -> None:
            self._bus.publish(RESULTS, self._failed(step, f"the checkpoint of step {step} is gone: {reason}"))

        try:
            sealed = self._trainer.sealed(step)
        except StorageError as error:
            refuse(str(error))
            return
        if self._applied(stopping, sealed, refuse):
            self._announce()

    def _begin_with(self, held: Held, sealed: GroupSealed) -> None:
        """Nothing is told of it: its batch is answered."""
        if sealed.step <= self._trainer.step:
            self._complete(held)
            return
        self._board.state = "training"
        try:
            self._trainer.add(sealed, self._bus.get_payload(sealed.payload), self._fence)
        except (StorageError, StepRefusedError) as error:
            log.warning("group not begun with, its batch has it", step=sealed.step, error=str(error))
        # Also where it failed: its batch has it, and begun once more it would fail once more.
        held.begun = True

    def _answer(self, held: Held, sealed: BatchSealed) -> None:
        """Announce the report of an applied step and acknowledge its batch."""
        step = sealed.step
        done = self._trainer.done(step)
        # The step stays as it was applied: its version is immutable, and students may hold it.
        if done.batch_sha256 != sealed.sha256:
            log.error("another batch was applied as this step", step=step, applied=done.batch_sha256)
        # Only the newest has a version to announce; of an older step the report alone is missing.
        if step == self._trainer.step:
            self._announce()
            self._complete(held)
        else:
            self._complete(held, announce=done)

    def _announce(self) -> None:
        published = self._trainer.publish()
        done = self._trainer.done(published.step)
        # Between publishing and this a full disk may have been waited for, longer than the lease lasts.
        self._fence.check()
        moved = self._bus.announce_version(published, done, self._fence.token)
        log.info("announced", version=published.version, first_time=moved)

    def _refuse(self, held: Held, reason: str) -> None:
        self._complete(held, announce=self._failed(held.sealed.step, reason))

    def _failed(self, step: int, reason: str) -> StepFailed:
        metrics.STEPS.labels("failed").inc()
        log.error("step refused", step=step, reason=reason)
        return StepFailed(student=self._student, step=step, reason=reason[:MAX_REASON_CHARS])

    def _complete(self, held: Held, announce: Message | None = None) -> None:
        fault_point("trainer.before-ack")
        # Acknowledgement and report in one call: neither can be lost without the other.
        self._bus.complete(held.delivery, announce=None if announce is None else (RESULTS, announce))
        self._keeper.drop(held.delivery)
        self._held.remove(held)

    def _tell(self) -> None:
        self._board.state, self._board.version = "ready", self._trainer.version

    def _pause(self, stopping: threading.Event, error: UnavailableError) -> None:
        self._board.state = "waiting for the bus"
        log.warning("the bus does not answer", error=str(error))
        stopping.wait(RETRY_S)

    def _end(self) -> None:
        """Give back what is in hand. Without an answer the leases run out by themselves."""
        self._board.state = "draining"
        try:
            for held in self._held:
                self._keeper.drop(held.delivery)
                # Given back, not left to its lease: whoever comes next gets it at once, and no attempt is counted.
                self._bus.release(held.delivery)
        except UnavailableError as error:
            log.warning("deliveries not released, their leases run out", error=str(error))
        self._fence.release()
