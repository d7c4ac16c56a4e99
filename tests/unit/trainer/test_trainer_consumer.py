"""The loop on a bus in memory: in order, once, answered, fenced."""

import time
from collections.abc import Sequence

import pytest

from services.trainer.consumer import TrainerBoard, trainer_heartbeat
from shared.bus.keys import BROKER, RESULTS, TRAINER, trainer_lease
from shared.bus.port import Delivery
from shared.clock import SystemClock
from shared.contracts.envelope import Message
from shared.contracts.jobs import JobStarted
from shared.contracts.weights import StepDone, WeightsPublished
from shared.errors import FencedError, UnavailableError
from shared.obs.presence import Presence
from tests.fakes.bus.memory import MemoryBus
from tests.fakes.bus.outliving import outlive
from tests.fakes.threads import in_thread
from tests.fakes.waiting import WAIT_S, wait_until
from tests.unit.trainer.consuming import LEASE_S, QUEUE, Ground, announce, steps_of
from tests.unit.trainer.ground import (
    STUDENT,
    OpenFence,
    seal_steps,
    seal_streamed,
    student_trainer,
)


def test_batches_out_of_order_are_applied_in_order_and_announced(ground: Ground) -> None:
    first, second, third = seal_steps(ground.run_dir, ground.tiny_dir, 3)
    with ground.running() as one:
        for sealed in (third, second):
            ground.bus.publish(QUEUE, sealed)
        wait_until(lambda: ground.bus.queue_depth(QUEUE, TRAINER) == (0, 2), "both in hand")
        outlive(ground.bus.server, LEASE_S)  # early batches outlive their lease unanswered
        assert one.trainer.step == 0
        ground.bus.publish(QUEUE, first)
        assert steps_of(ground.read(3)) == [1, 2, 3]
        wait_until(ground.settled, "all acknowledged")
        wait_until(lambda: (one.board.state, one.board.version) == ("ready", "a@v3"), "readiness")
    assert not ground.bus.dead_letters()


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
            wait_until(lambda: other.board.state == "waiting for the lease", "the second one to wait")
            outlive(ground.bus.server, LEASE_S)
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


class RenewsNothing(MemoryBus):
    """A bus that refuses to renew deliveries while it is told to."""

    refusing = False

    def renew(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        if self.refusing:
            raise UnavailableError("no answer")
        return super().renew(deliveries)


def test_a_batch_whose_lease_was_lost_comes_again(ground: Ground) -> None:
    ground.bus = bus = RenewsNothing(lease_s=LEASE_S)
    for queue, group in ((QUEUE, TRAINER), (RESULTS, BROKER)):
        bus.create_queue(queue, group)
    first, second = seal_steps(ground.run_dir, ground.tiny_dir, 2)
    with ground.running():
        bus.publish(QUEUE, second)
        wait_until(lambda: bus.queue_depth(QUEUE, TRAINER) == (0, 1), "the early batch in hand")
        bus.refusing = True
        time.sleep(2 * LEASE_S)
        bus.refusing = False
        bus.publish(QUEUE, first)
        assert steps_of(ground.read(2)) == [1, 2]
        wait_until(ground.settled, "all acknowledged")
    assert not bus.dead_letters()


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


def test_groups_ahead_of_a_batch_are_begun_with_and_its_answer_ends_them(ground: Ground) -> None:
    sealed, ahead = seal_streamed(ground.run_dir, ground.tiny_dir, 1, [1, 2, 0])
    again, others = seal_streamed(ground.run_dir, ground.tiny_dir, 2, [0, 1, 2])
    with ground.running() as one:
        announce(ground.bus, ahead[:2])
        wait_until(lambda: len(one.trainer._begun) == 2, "both groups")
        outlive(ground.bus.server, LEASE_S)
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
