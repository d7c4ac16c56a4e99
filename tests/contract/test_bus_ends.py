"""The port's promises about dead letters, malformed messages, depth, trimming and payloads, on both buses."""

import pytest

from shared.bus.keys import LEADER, RESULTS
from shared.bus.port import Commit
from shared.errors import FencedError, MalformedMessageError, StorageError
from tests.contract.conftest import AnyBus, World
from tests.contract.messages import (
    PAYLOADS,
    RESULT_QUEUE,
    ROLLOUTS,
    STUDENTS_GROUP,
    done,
    job,
    job_input,
    output,
    started,
)
from tests.contract.taking import keys, results, take


def test_burying_announces_the_failure_in_the_same_step(queues: AnyBus) -> None:
    queues.publish(ROLLOUTS, job("crasher"))
    (delivery,) = take(queues)
    failed = done("crasher", error="gave up")
    assert queues.dead_letter(delivery, "attempts exceeded", announce=(RESULTS, failed)) is True
    assert queues.dead_letter(delivery, "attempts exceeded", announce=(RESULTS, failed)) is False
    (letter,) = queues.dead_letters()
    assert (letter.queue, letter.reason, letter.deliveries) == (ROLLOUTS, "attempts exceeded", 1)
    assert b"crasher" in letter.raw
    assert results(queues) == ["crasher.done"]
    assert queues.queue_depth(ROLLOUTS, STUDENTS_GROUP) == (0, 0)


MALFORMED = {
    "not json": b"\xff\x00 not json",
    "unknown type": b'{"id":"x","type":"Nothing","schema_version":1,"body":"{}"}',
    "later schema": b'{"id":"x","type":"Job","schema_version":99,"body":"{}"}',
    "wrong body": b'{"id":"x","type":"Job","schema_version":1,"body":"{}"}',
}


@pytest.mark.parametrize("raw", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_messages_are_buried_raw_and_block_nobody(queues: AnyBus, world: World, raw: bytes) -> None:
    world.put_raw(ROLLOUTS, raw)
    queues.publish(ROLLOUTS, job("behind"))
    assert keys(take(queues, limit=2)) == ["behind"]
    (letter,) = queues.dead_letters()
    assert (letter.raw, letter.queue, letter.deliveries) == (raw, ROLLOUTS, 1)
    assert queues.queue_depth(ROLLOUTS, STUDENTS_GROUP) == (0, 1)


def test_a_malformed_message_alone_does_not_end_the_waiting(queues: AnyBus, world: World) -> None:
    world.put_raw(ROLLOUTS, b"broken")
    queues.publish(ROLLOUTS, job("behind"))
    assert keys(take(queues, limit=1, block_s=2)) == ["behind"]


def test_dead_letters_can_be_retried_and_dropped(queues: AnyBus, world: World) -> None:
    for name in ("one", "two"):
        queues.publish(ROLLOUTS, job(name))
    for delivery in take(queues):
        queues.dead_letter(delivery, "crash")
    one, two = queues.dead_letters()
    assert queues.dead_letters(1) == [one]
    assert queues.retry_dead_letter(one.entry_id) is True
    assert queues.retry_dead_letter(one.entry_id) is False
    assert queues.drop_dead_letter(two.entry_id) is True
    assert queues.drop_dead_letter(two.entry_id) is False
    assert queues.dead_letters() == []
    (again,) = take(world.open(), "replica-1")
    assert (again.message.key, again.attempt) == ("one", 1)


def test_a_duplicate_delivery_is_two_entries_with_one_key(queues: AnyBus) -> None:
    for _ in range(2):
        queues.publish(RESULTS, started("one"))
    first, second = queues.take(RESULT_QUEUE, "reader", limit=9, block_s=0)
    assert first.message == second.message
    assert first.entry_id != second.entry_id
    assert queues.complete(first) and queues.complete(second)


def test_an_envelope_over_the_limit_is_refused_before_anything_is_written(queues: AnyBus) -> None:
    queues.publish(ROLLOUTS, job("one"))
    (delivery,) = take(queues)
    huge = done("x" * 240).model_copy(update={"replica": "r" * 9000})
    with pytest.raises(MalformedMessageError, match="8192"):
        queues.complete(delivery, announce=(RESULTS, huge))
    assert queues.complete(delivery) is True


def test_depth_counts_waiting_and_pending(queues: AnyBus) -> None:
    for number in range(5):
        queues.publish(ROLLOUTS, job(f"j{number}"))
    assert queues.queue_depth(ROLLOUTS, STUDENTS_GROUP) == (5, 0)
    taken = take(queues, limit=2)
    assert queues.queue_depth(ROLLOUTS, STUDENTS_GROUP) == (3, 2)
    queues.complete(taken[0])
    assert queues.queue_depth(ROLLOUTS, STUDENTS_GROUP) == (3, 1)
    assert queues.queue_depth("jobs:b:rollout", STUDENTS_GROUP) == (0, 0)


def test_trimming_takes_nothing_that_waits_or_is_held(queues: AnyBus) -> None:
    for number in range(4):
        queues.publish(ROLLOUTS, job(f"j{number}"))
    taken = take(queues, limit=2)
    assert queues.trim(ROLLOUTS, STUDENTS_GROUP) == 0
    assert all(queues.complete(delivery) for delivery in taken)
    assert queues.trim(ROLLOUTS, STUDENTS_GROUP) == 0
    assert keys(take(queues)) == ["j2", "j3"]
    assert queues.trim("jobs:b:rollout", STUDENTS_GROUP) == 0


def test_what_is_discarded_is_gone_whoever_has_it(queues: AnyBus, world: World) -> None:
    for number in range(5):
        queues.publish(ROLLOUTS, job(f"j{number}"))
    world.put_raw(ROLLOUTS, b"broken")
    mine, kept = take(queues, limit=2)
    other = world.open()
    (theirs,) = take(other, "replica-1", limit=1)
    fence = queues.acquire_lease(LEADER, "broker-0", ttl_s=30)
    assert fence is not None
    with pytest.raises(FencedError, match="another process took over"):
        queues.discard(ROLLOUTS, STUDENTS_GROUP, lambda _: True, fence - 1)
    assert queues.discard(ROLLOUTS, STUDENTS_GROUP, lambda message: message.key not in ("j1", "j4"), fence) == 3
    assert queues.discard("jobs:b:rollout", STUDENTS_GROUP, lambda _: True, fence) == 0
    assert queues.renew([mine, kept]) == [kept]
    ref, data = output("j2")
    assert other.complete(theirs, announce=(RESULTS, done("j2", ref)), payload=(ref, data)) is False
    assert results(queues) == []
    assert keys(take(other, "replica-1")) == ["j4"]
    assert len(queues.dead_letters()) == 1, "what cannot be read is buried by who takes it"
    assert queues.complete(kept) is True
    queues.publish(ROLLOUTS, job("j0"))
    assert [(d.message.key, d.attempt) for d in take(queues)] == [("j0", 1)]


def test_payloads_are_written_once_checked_and_dropped(bus: AnyBus) -> None:
    ref, data = job_input("one")
    other = job_input("two")
    fence = bus.acquire_lease(LEADER, "broker-0", ttl_s=30)
    assert fence is not None
    with pytest.raises(StorageError, match="sha256"):
        bus.commit(Commit(fence, 1, "first", payloads=[(ref, other[1])]))
    bus.commit(Commit(fence, 1, "first", payloads=[(ref, data)]))
    again = ref.model_copy(update={"sha256": other[0].sha256})
    bus.commit(Commit(fence, 2, "second", payloads=[(again, other[1])]))
    assert bus.get_payload(ref) == data
    assert bus.payload_keys() == [PAYLOADS]
    with pytest.raises(FencedError, match="another process took over"):
        bus.drop_payloads(PAYLOADS, fence - 1)
    assert bus.payload_keys() == [PAYLOADS]
    bus.drop_payloads(PAYLOADS, fence)
    assert bus.payload_keys() == []
    with pytest.raises(StorageError, match="absent"):
        bus.get_payload(ref)


def test_after_a_restart_without_data_readers_make_their_groups_again(queues: AnyBus, world: World) -> None:
    queues.publish(ROLLOUTS, job("gone"))
    (delivery,) = take(queues)
    world.lose_everything()
    assert queues.renew([delivery]) == []
    assert queues.complete(delivery) is False
    assert take(queues) == []
    queues.publish(ROLLOUTS, job("again"))
    assert keys(take(queues)) == ["again"]
