"""The loop on a bus in memory: in order, once, answered, fenced."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from services.trainer.consumer import MISSED_AFTER_LEASES, Consumer, TrainerBoard, trainer_heartbeat
from services.trainer.lease import LeaseFence
from services.trainer.step.step import StepSettings
from services.trainer.trainer import StudentTrainer
from shared.bus.keys import BROKER, RESULTS, TRAINER, train, trainer_lease
from shared.bus.leases import LeaseKeeper
from shared.bus.port import Delivery
from shared.bus.turns import CardTurn
from shared.clock import SystemClock
from shared.contracts.envelope import Message
from shared.contracts.jobs import JobStarted
from shared.contracts.weights import StepDone, StepFailed, WeightsPublished
from shared.errors import FencedError, UnavailableError
from shared.obs.presence import Presence
from tests.fakes.bus.memory import MemoryBus
from tests.fakes.threads import in_thread
from tests.fakes.waiting import WAIT_S
from tests.unit.trainer.ground import (
    STUDENT,
    Ahead,
    OpenFence,
    checkpoints_of,
    seal_steps,
    seal_streamed,
    settings,
    student_trainer,
)

LEASE_S = 0.6
QUEUE = train(STUDENT)


class Running:
    """A consumer in a thread, as the service runs it."""

    def __init__(self, bus: MemoryBus, trainer: StudentTrainer, holder: str, turn: CardTurn | None = None) -> None:
        self.trainer = trainer
        self._turn = turn
        self.board = TrainerBoard()
        self.stopping = threading.Event()
        self.error: BaseException | None = None
        self._bus = bus
        self._holder = holder
        self.fence = LeaseFence(bus, STUDENT, holder, ttl_s=LEASE_S)
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        floor = checkpoints_of(self.trainer._store).highest_token()
        with LeaseKeeper(self._bus, lease_s=LEASE_S) as keeper:
            consumer = Consumer(
                self._bus,
                self.trainer,
                self.fence,
                keeper,
                self.board,
                student=STUDENT,
                name=self._holder,
                lease_s=LEASE_S,
                turn=self._turn,
            )
            try:
                consumer.run(self.stopping, floor)
            except Exception as error:  # noqa: BLE001 - the test says which it is to be
                self.error = error


class Ground:
    """A bus, a run directory, and what the broker would see."""

    def __init__(self, run_dir: Path, tiny_dir: Path) -> None:
        self.run_dir, self.tiny_dir = run_dir, tiny_dir
        self.bus = MemoryBus(lease_s=LEASE_S)
        self.bus.create_queue(QUEUE, TRAINER)
        self.bus.create_queue(RESULTS, BROKER)
        self.answers: list[Message] = []

    @contextmanager
    def running(
        self, holder: str = "t0", step: StepSettings | None = None, turn: CardTurn | None = None
    ) -> Iterator[Running]:
        one = Running(self.bus, student_trainer(self.run_dir, self.tiny_dir, step), holder, turn)
        one.thread.start()
        try:
            yield one
        finally:
            one.stopping.set()
            one.thread.join(timeout=WAIT_S)
            assert not one.thread.is_alive()

    def read(self, count: int) -> list[Message]:
        """All answers so far, once there are `count`."""
        deadline = time.monotonic() + WAIT_S
        while len(self.answers) < count:
            assert time.monotonic() < deadline, f"expected {count} answers, got {self.answers}"
            for delivery in self.bus.take([(RESULTS, BROKER)], "broker", limit=8, block_s=0.1):
                self.answers.append(delivery.message)
                self.bus.complete(delivery)
        return self.answers

    def settled(self) -> bool:
        return self.bus.queue_depth(QUEUE, TRAINER) == (0, 0)


def wait_until(reached: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not reached():
        assert time.monotonic() < deadline, f"{what}: not within {WAIT_S:.0f} s"
        time.sleep(0.02)


@pytest.fixture
def ground(tmp_path: Path, tiny_dir: Path) -> Ground:
    return Ground(tmp_path, tiny_dir)


def failing(error: Exception) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def steps_done(answers: list[Message]) -> list[tuple[int, str]]:
    return [(answer.step, answer.checksum) for answer in answers if isinstance(answer, StepDone)]


def steps_of(answers: list[Message]) -> list[int]:
    return [answer.step for answer in answers if isinstance(answer, StepDone)]


def test_batches_out_of_order_are_applied_in_order_and_announced(ground: Ground) -> None:
    first, second, third = seal_steps(ground.run_dir, ground.tiny_dir, 3)
    with ground.running() as one:
        for sealed in (third, second):
            ground.bus.publish(QUEUE, sealed)
        time.sleep(2.5 * LEASE_S)  # early batches outlive their lease unanswered
        assert one.trainer.step == 0
        ground.bus.publish(QUEUE, first)
        assert steps_of(ground.read(3)) == [1, 2, 3]
        wait_until(ground.settled, "all acknowledged")
        wait_until(lambda: (one.board.state, one.board.version) == ("ready", "a@v3"), "readiness")
    assert not ground.bus.dead_letters()


def test_a_step_that_cannot_be_made_again_is_told_and_tried_again_with_the_next_batch(ground: Ground) -> None:
    seldom = settings(checkpoint_every=9)
    sealed = seal_steps(ground.run_dir, ground.tiny_dir, 3)
    apart = seal_steps(ground.run_dir / "apart", ground.tiny_dir, 3)
    with ground.running(step=seldom):
        for each in sealed[:2]:
            ground.bus.publish(QUEUE, each)
        ground.read(2)
    lost, aside = ground.run_dir / sealed[0].uri, ground.run_dir / "aside"
    lost.rename(aside)
    with ground.running("t1", seldom) as one:
        failed = ground.read(3)[2]
        assert isinstance(failed, StepFailed) and failed.step == 3
        assert "step 1 has to be made again" in failed.reason
        ground.bus.publish(QUEUE, sealed[2])
        again = ground.read(5)[-1]
        assert isinstance(again, StepFailed) and again.reason == failed.reason
        assert one.thread.is_alive() and one.trainer.step == 2
        aside.rename(lost)
        ground.bus.publish(QUEUE, sealed[2])
        done = ground.read(6)[-1]
    assert isinstance(done, StepDone) and done.step == 3
    whole = student_trainer(ground.run_dir / "apart", ground.tiny_dir, settings())
    for each in apart:
        whole.apply(each, OpenFence())
    assert done.checksum == whole.done(3).checksum, "trained on what step 2 left, and on nothing else"


def test_a_batch_delivered_again_is_answered_with_the_same_report(ground: Ground) -> None:
    sealed = seal_steps(ground.run_dir, ground.tiny_dir, 2)
    with ground.running():
        for each in (*sealed, *sealed, sealed[0]):
            ground.bus.publish(QUEUE, each)
        answers = ground.read(5)
        wait_until(ground.settled, "all acknowledged")
    by_step = {step: [a for a in answers if isinstance(a, StepDone) and a.step == step] for step in (1, 2)}
    assert [len(by_step[step]) for step in (1, 2)] == [3, 2]
    assert all(answer == reports[0] for reports in by_step.values() for answer in reports)
    assert sorted(path.name for path in (ground.run_dir / "weights" / "a").iterdir()) == ["v000001", "v000002"]


def test_a_restart_announces_its_version_again(ground: Ground) -> None:
    [sealed] = seal_steps(ground.run_dir, ground.tiny_dir, 1)
    with ground.running():
        ground.bus.publish(QUEUE, sealed)
        [first] = ground.read(1)
    emptied = Ground(ground.run_dir, ground.tiny_dir)
    with emptied.running() as one:
        assert emptied.read(1) == [first]
        assert one.fence.token == 2  # above the one on disk, though the server knows of none


def test_a_second_trainer_waits_and_goes_on_where_the_first_ended(ground: Ground) -> None:
    first, second = seal_steps(ground.run_dir, ground.tiny_dir, 2)
    with ground.running("t0"):
        ground.bus.publish(QUEUE, first)
        ground.read(1)
        with ground.running("t1") as other:
            time.sleep(2 * LEASE_S)
            assert other.board.state == "waiting for the lease"
    with ground.running("t1") as other:
        ground.bus.publish(QUEUE, second)
        assert steps_of(ground.read(3)) == [1, 1, 2]
        assert other.fence.token == 2


def test_a_trainer_whose_lease_was_taken_stops_without_writing(ground: Ground) -> None:
    [sealed] = seal_steps(ground.run_dir, ground.tiny_dir, 1)
    with ground.running() as one:
        wait_until(lambda: one.board.state == "ready", "readiness")
        ground.bus.release_lease(trainer_lease(STUDENT), "t0", one.fence.token)
        assert ground.bus.acquire_lease(trainer_lease(STUDENT), "thief", ttl_s=60) == 2
        ground.bus.publish(QUEUE, sealed)
        one.thread.join(timeout=WAIT_S)
        assert isinstance(one.error, FencedError)
        assert one.error.exit_code == 75
    assert not (ground.run_dir / "checkpoints").exists()


def test_a_stale_token_cannot_announce(ground: Ground) -> None:
    [sealed] = seal_steps(ground.run_dir, ground.tiny_dir, 1)
    with ground.running():
        ground.bus.publish(QUEUE, sealed)
        [done] = ground.read(1)
    assert ground.bus.acquire_lease(trainer_lease(STUDENT), "new", ttl_s=60) == 2
    forged = WeightsPublished(student="a", version="a@v9", step=9, uri="weights/a/v000009", manifest_sha256="0" * 64)
    with pytest.raises(FencedError):
        ground.bus.announce_version(forged, done, 1)


def test_a_bad_batch_is_refused_and_may_be_sent_again(ground: Ground) -> None:
    [sealed] = seal_steps(ground.run_dir, ground.tiny_dir, 1)
    with ground.running() as one:
        ground.bus.publish(QUEUE, sealed.model_copy(update={"sha256": "0" * 64}))
        [failed] = ground.read(1)
        assert isinstance(failed, StepFailed)
        assert (failed.step, one.trainer.step) == (1, 0)
        assert "sha256" in failed.reason
        ground.bus.publish(QUEUE, sealed)
        assert steps_of(ground.read(2)) == [1]


class OutOfMemoryError(RuntimeError):
    """As torch calls it."""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            OutOfMemoryError("CUDA out of memory"),
            "set a lower optimizer.micro_batch_tokens",
        ),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero"),
    ],
)
def test_what_nobody_foresaw_in_a_step_is_told_and_ends_this_process_alone(
    ground: Ground, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    """Delivered again it would end the next one, and so on, and the run would never say why it stands."""
    [sealed] = seal_steps(ground.run_dir, ground.tiny_dir, 1)
    with ground.running("t0") as first:
        monkeypatch.setattr(first.trainer._work, "train", failing(error))
        ground.bus.publish(QUEUE, sealed)
        [failed] = ground.read(1)
        first.thread.join(WAIT_S)
    assert isinstance(failed, StepFailed) and said in failed.reason
    assert first.error is error and ground.settled()
    with ground.running("t1"):
        time.sleep(2.5 * LEASE_S)
        assert len(ground.read(1)) == 1, "it does not come again"
        ground.bus.publish(QUEUE, sealed)  # as when the run is resumed
        assert steps_of(ground.read(2)) == [1]


def test_what_nobody_foresaw_in_a_group_is_left_to_its_batch(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    sealed, ahead = seal_streamed(ground.run_dir, ground.tiny_dir, 1, [1, 2, 0])
    with ground.running("t0") as first:
        monkeypatch.setattr(first.trainer._work, "add", failing(ZeroDivisionError("division by zero")))
        announce(ground.bus, ahead[:1])
        first.thread.join(WAIT_S)
    assert isinstance(first.error, ZeroDivisionError) and ground.settled()
    with ground.running("t1"):
        announce(ground.bus, ahead[1:])
        ground.bus.publish(QUEUE, sealed)
        assert steps_of(ground.read(1)) == [1]


@pytest.mark.parametrize("batch", ["there", "gone"])
def test_a_step_whose_checkpoint_is_gone_is_made_once_more_of_its_batch(ground: Ground, batch: str) -> None:
    """It was acknowledged, so nobody delivers it again; the batch after it waits."""
    first, second, third = seal_steps(ground.run_dir, ground.tiny_dir, 3)
    with ground.running("t0"):
        for each in (first, second):
            ground.bus.publish(QUEUE, each)
        made = steps_done(ground.read(2))
        wait_until(ground.settled, "all acknowledged")
    (ground.run_dir / "checkpoints/a/k000002/manifest.json").write_bytes(b"")
    if batch == "gone":
        (ground.run_dir / second.uri).rename(ground.run_dir / "aside")
    with ground.running("t1") as one:
        ground.bus.publish(QUEUE, third)
        if batch == "gone":
            time.sleep((MISSED_AFTER_LEASES + 1.5) * LEASE_S)
            assert one.thread.is_alive() and one.trainer.step == 1
            return
        done = steps_done(ground.read(5))
    assert done[:4] == [*made, *made], "the same weights, and the same version"
    assert [step for step, _ in done] == [1, 2, 1, 2, 3]


class NoDeadLetterAtFirst(MemoryBus):
    """A bus that does not answer the first burial; leases are longer than any test waits."""

    def __init__(self) -> None:
        super().__init__(lease_s=10 * WAIT_S)
        self.refused = 0

    def dead_letter(self, delivery: Delivery, reason: str, *, announce: tuple[str, Message] | None = None) -> bool:
        if not self.refused:
            self.refused += 1
            raise UnavailableError("no answer")
        return super().dead_letter(delivery, reason, announce=announce)


def test_a_batch_behind_a_foreign_message_that_could_not_be_buried_is_applied(ground: Ground) -> None:
    ground.bus = bus = NoDeadLetterAtFirst()
    for queue, group in ((QUEUE, TRAINER), (RESULTS, BROKER)):
        bus.create_queue(queue, group)
    [sealed] = seal_steps(ground.run_dir, ground.tiny_dir, 1)
    bus.publish(QUEUE, JobStarted(job_id="j", student=STUDENT, replica="0", attempt=1))
    bus.publish(QUEUE, sealed)
    with ground.running():
        assert steps_of(ground.read(1)) == [1]
    assert bus.refused == 1


def test_what_is_no_batch_of_this_student_goes_to_the_dead_letters(ground: Ground) -> None:
    [sealed] = seal_steps(ground.run_dir, ground.tiny_dir, 1)
    with ground.running():
        ground.bus.publish(QUEUE, JobStarted(job_id="j", student="a", replica="0", attempt=1))
        ground.bus.publish(QUEUE, sealed.model_copy(update={"student": "b"}))
        ground.bus.publish(QUEUE, sealed)
        assert steps_of(ground.read(1)) == [1]
    assert len(ground.bus.dead_letters()) == 2


def test_a_server_that_goes_away_delays_and_loses_nothing(ground: Ground) -> None:
    first, second = seal_steps(ground.run_dir, ground.tiny_dir, 2)
    with ground.running() as one:
        ground.bus.publish(QUEUE, first)
        ground.read(1)
        ground.bus.server.down = True
        wait_until(lambda: one.board.problem() == "waiting for the bus", "the loss to be noticed")
        ground.bus.server.down = False
        ground.bus.publish(QUEUE, second)
        wait_until(lambda: one.trainer.step == 2 or one.error is not None, "the next step")
    assert one.error is None
    assert list(dict.fromkeys(steps_of(ground.read(2)))) == [1, 2], "a report may come twice, none may be missing"


def announce(bus: MemoryBus, ahead: list[Ahead]) -> None:
    for sealed, payload in ahead:
        bus.server.payloads.setdefault(sealed.payload.key, {})[sealed.payload.field] = payload
        bus.publish(QUEUE, sealed)


def test_groups_ahead_of_a_batch_are_begun_with_and_its_answer_ends_them(ground: Ground) -> None:
    sealed, ahead = seal_streamed(ground.run_dir, ground.tiny_dir, 1, [1, 2, 0])
    again, others = seal_streamed(ground.run_dir, ground.tiny_dir, 2, [0, 1, 2])
    with ground.running() as one:
        announce(ground.bus, ahead[:2])
        wait_until(lambda: len(one.trainer._begun) == 2, "both groups")
        time.sleep(2.5 * LEASE_S)
        assert ground.bus.queue_depth(QUEUE, TRAINER) == (0, 2), "kept for who would take over"
        ground.bus.publish(QUEUE, sealed)
        assert steps_of(ground.read(1)) == [1]
        wait_until(ground.settled, "all acknowledged")
        # More than are taken at once, and one that comes after its step.
        announce(ground.bus, others)
        ground.bus.publish(QUEUE, again)
        announce(ground.bus, ahead[2:])
        assert steps_of(ground.read(2)) == [1, 2]
        wait_until(ground.settled, "all acknowledged")
    assert not ground.bus.dead_letters()


def test_who_takes_over_between_two_groups_begins_with_those_that_came(ground: Ground) -> None:
    sealed, ahead = seal_streamed(ground.run_dir, ground.tiny_dir, 1, [1, 2, 0])
    with ground.running("t0") as first:
        announce(ground.bus, ahead[:2])
        wait_until(lambda: len(first.trainer._begun) == 2, "both groups")
    with ground.running("t1") as second:
        announce(ground.bus, ahead[2:])
        wait_until(lambda: second.trainer._begun == [group for group, _ in ahead], "all groups, in order")
        ground.bus.publish(QUEUE, sealed)
        [done] = ground.read(1)
    alone = student_trainer(ground.run_dir / "alone", ground.tiny_dir)
    alone.restore()
    alone.apply(seal_streamed(ground.run_dir / "alone", ground.tiny_dir, 1, [1, 2, 0])[0], OpenFence())
    assert isinstance(done, StepDone) and done.checksum == alone.done(1).checksum


def test_a_group_whose_payload_is_gone_is_left_to_its_batch(ground: Ground) -> None:
    sealed, ahead = seal_streamed(ground.run_dir, ground.tiny_dir, 1, [1, 2, 0])
    with ground.running():
        for group, _ in ahead:
            ground.bus.publish(QUEUE, group)
        ground.bus.publish(QUEUE, sealed)
        assert steps_of(ground.read(1)) == [1]
        wait_until(ground.settled, "all acknowledged")


def test_heartbeats_say_state_and_version(ground: Ground) -> None:
    board = TrainerBoard("training", "a@v4")
    clock = SystemClock()
    presence = Presence(
        ground.bus,
        lambda: trainer_heartbeat(board, clock, student="a", replica="0", url="http://trainer:1"),
        period_s=0.05,
    )
    with in_thread(presence.run):
        wait_until(lambda: bool(ground.bus.heartbeats()), "a heartbeat")
    [beat] = ground.bus.heartbeats()
    assert (beat.service, beat.state, beat.version, beat.url) == ("trainer-a", "training", "a@v4", "http://trainer:1")


def test_a_training_trainer_is_ready_and_a_starting_one_is_not() -> None:
    assert TrainerBoard("training").problem() is None
    assert TrainerBoard().problem() == "starting"
