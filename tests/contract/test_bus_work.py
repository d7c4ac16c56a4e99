"""The port's promises about queues, leases of messages and completion, on both buses."""

import threading
import time

import pytest

from shared.bus.keys import RESULTS
from shared.bus.leases import LeaseKeeper
from shared.contracts.jobs import JobKind
from shared.errors import StorageError, UnavailableError
from tests.contract.conftest import LEASE_S, AnyBus, World
from tests.contract.messages import (
    BROKER_GROUP,
    FEEDBACK,
    RESULT_QUEUE,
    ROLLOUTS,
    STUDENTS_GROUP,
    done,
    job,
    output,
)
from tests.contract.taking import keys, results, take
from tests.fakes.waiting import wait_until

BLOCK_S = 60.0
"""For who is woken long before: after less than half of it, even where the machine stands still for a while."""


def test_what_is_published_is_delivered_as_it_was(queues: AnyBus) -> None:
    queues.publish(ROLLOUTS, job("one"))
    (delivery,) = take(queues)
    assert delivery.message == job("one")
    assert (delivery.queue, delivery.group, delivery.consumer) == (ROLLOUTS, STUDENTS_GROUP, "replica-0")
    assert delivery.attempt == 1


def test_priority_is_the_order_of_the_queues_and_limit_holds_across_them(queues: AnyBus) -> None:
    for name in ("r1", "r2"):
        queues.publish(ROLLOUTS, job(name))
    for name in ("f1", "f2"):
        queues.publish(FEEDBACK, job(name, JobKind.FEEDBACK))
    assert keys(take(queues, limit=3)) == ["f1", "f2", "r1"]
    assert keys(take(queues, limit=3)) == ["r2"]


def test_no_more_than_the_limit_even_when_woken_by_two_queues(queues: AnyBus) -> None:
    def send() -> None:
        time.sleep(0.1)
        queues.publish(ROLLOUTS, job("r1"))
        queues.publish(FEEDBACK, job("f1", JobKind.FEEDBACK))

    sender = threading.Thread(target=send)
    sender.start()
    first = take(queues, limit=1, block_s=BLOCK_S)
    sender.join()
    assert len(first) == 1
    assert len(take(queues, limit=1, block_s=BLOCK_S)) == 1


def test_take_waits_only_when_nothing_is_there(queues: AnyBus) -> None:
    begin = time.monotonic()
    assert take(queues, block_s=0.2) == []
    assert time.monotonic() - begin >= 0.2
    queues.publish(ROLLOUTS, job("one"))
    begin = time.monotonic()
    assert keys(take(queues, block_s=BLOCK_S)) == ["one"]
    assert time.monotonic() - begin < BLOCK_S / 2


def test_a_group_starts_at_the_first_message_and_is_created_once(queues: AnyBus) -> None:
    queues.publish(ROLLOUTS, job("early"))
    queues.create_queue(ROLLOUTS, STUDENTS_GROUP)
    assert keys(take(queues)) == ["early"]


def test_publishing_where_nobody_reads_is_refused(bus: AnyBus) -> None:
    with pytest.raises(UnavailableError, match="jobs:a:rollout"):
        bus.publish(ROLLOUTS, job("one"))
    bus.create_queue(ROLLOUTS, STUDENTS_GROUP)
    assert take(bus) == []


def test_a_message_goes_to_one_consumer(queues: AnyBus, world: World) -> None:
    for number in range(20):
        queues.publish(ROLLOUTS, job(f"j{number}"))
    first = take(queues, "replica-0", limit=7)
    second = take(world.open(), "replica-1", limit=100)
    assert sorted(keys(first) + keys(second)) == sorted(f"j{number}" for number in range(20))


def test_held_messages_are_not_taken_again_by_their_own_process(queues: AnyBus) -> None:
    queues.publish(ROLLOUTS, job("one"))
    assert keys(take(queues)) == ["one"]
    assert take(queues) == []


def test_after_a_restart_own_pending_messages_come_first_and_at_once(queues: AnyBus, world: World) -> None:
    for name in ("one", "two", "three"):
        queues.publish(ROLLOUTS, job(name))
    take(queues, limit=2)
    again = take(world.open(), limit=10)
    assert keys(again) == ["one", "two", "three"]
    assert [delivery.attempt for delivery in again] == [2, 2, 1]


def test_another_consumer_steals_after_the_lease_and_not_before(queues: AnyBus, world: World) -> None:
    queues.publish(ROLLOUTS, job("one"))
    take(queues)
    other = world.open()
    world.ageing.age(LEASE_S / 2)
    assert take(other, "replica-1") == []
    world.expire()
    (stolen,) = take(other, "replica-1", block_s=BLOCK_S)
    assert (stolen.message.key, stolen.attempt) == ("one", 2)


def test_a_waiting_consumer_notices_an_expired_lease(queues: AnyBus, world: World) -> None:
    queues.publish(ROLLOUTS, job("one"))
    take(queues)
    later = threading.Timer(0.1, world.expire)
    later.start()
    begin = time.monotonic()
    assert keys(take(world.open(), "replica-1", block_s=BLOCK_S)) == ["one"]
    assert time.monotonic() - begin < BLOCK_S / 2
    later.join()


def test_one_expired_message_behind_many_renewed_ones_is_found(queues: AnyBus, world: World) -> None:
    for number in range(40):
        queues.publish(ROLLOUTS, job(f"j{number}"))
    taken = take(queues, limit=40)
    world.expire()
    queues.renew(taken[:-1])
    assert keys(take(world.open(), "replica-1", limit=1)) == ["j39"]


def test_late_completion_changes_nothing(queues: AnyBus, world: World) -> None:
    queues.publish(ROLLOUTS, job("one"))
    (stalled,) = take(queues)
    world.expire()
    other = world.open()
    (stolen,) = take(other, "replica-1")
    ref, data = output("one", "late")
    assert queues.complete(stalled, announce=(RESULTS, done("one", ref)), payload=(ref, data)) is False
    assert results(other) == []
    with pytest.raises(StorageError, match="absent"):
        other.get_payload(ref)
    assert other.complete(stolen, announce=(RESULTS, done("one"))) is True
    assert results(other) == ["one.done"]


def test_a_message_that_a_new_process_of_its_consumer_took_again_belongs_to_the_new_attempt(
    queues: AnyBus, world: World
) -> None:
    queues.publish(ROLLOUTS, job("one"))
    (stalled,) = take(queues)
    restarted = world.open()
    (again,) = take(restarted)
    assert queues.renew([stalled]) == []
    assert restarted.renew([again]) == [again]
    assert queues.complete(stalled) is False
    assert restarted.complete(again) is True


def test_an_expired_message_in_hand_is_renewed_and_not_taken_again_by_its_own_process(
    queues: AnyBus, world: World
) -> None:
    for name in ("one", "two"):
        queues.publish(ROLLOUTS, job(name))
    held = take(queues, limit=1)
    world.expire()
    assert keys(take(queues)) == ["two"], "what is in hand keeps nothing else back"
    assert take(world.open(), "replica-1") == []
    assert queues.renew(held) == held
    assert queues.complete(held[0], announce=(RESULTS, done("one"))) is True
    assert results(world.open()) == ["one.done"]


def test_ending_what_was_lost_leaves_a_later_attempt_in_hand(queues: AnyBus, world: World) -> None:
    queues.publish(ROLLOUTS, job("one"))
    (first,) = take(queues)
    world.expire()
    assert keys(take(world.open(), "replica-1")) == ["one"]
    world.expire()
    (third,) = take(queues)
    queues.release(first)
    assert take(queues) == []
    assert queues.renew([third]) == [third] and third.attempt == 3


def test_completion_stores_announces_and_deletes(queues: AnyBus) -> None:
    queues.publish(ROLLOUTS, job("one"))
    (delivery,) = take(queues)
    ref, data = output("one")
    assert queues.complete(delivery, announce=(RESULTS, done("one", ref)), payload=(ref, data)) is True
    assert queues.get_payload(ref) == data
    assert queues.queue_depth(ROLLOUTS, STUDENTS_GROUP) == (0, 0)
    (result,) = queues.take(RESULT_QUEUE, "reader", limit=9, block_s=0)
    assert result.message == done("one", ref)
    assert queues.complete(delivery) is False, "a second completion is late"


def test_the_first_payload_of_a_job_wins(queues: AnyBus) -> None:
    first, second = output("one", "first"), output("one", "second")
    for ref, data in (first, second):
        queues.publish(ROLLOUTS, job("one"))
        (delivery,) = take(queues)
        assert queues.complete(delivery, announce=(RESULTS, done("one", ref)), payload=(ref, data))
    assert queues.get_payload(first[0]) == first[1]
    with pytest.raises(StorageError, match="stored first"):
        queues.get_payload(second[0])


def test_completion_is_refused_whole_when_the_answer_has_no_reader(bus: AnyBus) -> None:
    bus.create_queue(ROLLOUTS, STUDENTS_GROUP)
    bus.publish(ROLLOUTS, job("one"))
    (delivery,) = take(bus)
    ref, data = output("one")
    with pytest.raises(UnavailableError, match="results"):
        bus.complete(delivery, announce=(RESULTS, done("one", ref)), payload=(ref, data))
    with pytest.raises(StorageError, match="absent"):
        bus.get_payload(ref)
    bus.create_queue(RESULTS, BROKER_GROUP)
    assert bus.complete(delivery, announce=(RESULTS, done("one", ref)), payload=(ref, data)) is True


def test_renewal_keeps_the_lease(queues: AnyBus, world: World) -> None:
    queues.publish(ROLLOUTS, job("one"))
    taken = take(queues)
    for _ in range(4):
        world.ageing.age(LEASE_S / 2)
        assert queues.renew(taken) == taken
        assert take(world.open(), "replica-1") == []
    assert queues.complete(taken[0]) is True


def test_taking_more_does_not_renew_what_is_held(queues: AnyBus, world: World) -> None:
    queues.publish(ROLLOUTS, job("one"))
    take(queues)
    for _ in range(2):
        world.ageing.age(LEASE_S * 0.4)
        assert take(queues, limit=5) == []
    world.ageing.age(LEASE_S * 0.4)
    assert keys(take(world.open(), "replica-1")) == ["one"]


def test_renewal_tells_what_was_lost_and_does_not_bring_it_back(queues: AnyBus, world: World) -> None:
    for name in ("one", "two"):
        queues.publish(ROLLOUTS, job(name))
    one, two = take(queues)
    world.expire()
    other = world.open()
    (stolen,) = take(other, "replica-1", limit=1)
    assert queues.renew([one, two]) == [two]
    assert other.renew([stolen]) == [stolen]
    assert queues.renew([]) == []


def test_a_handler_slower_than_its_lease_has_exactly_one_attempt(queues: AnyBus, world: World) -> None:
    queues.publish(ROLLOUTS, job("slow"))
    other = world.open()
    with LeaseKeeper(queues, lease_s=0.1) as keeper:
        (delivery,) = take(queues)
        lost = keeper.hold(delivery)
        for _ in range(4):
            world.ageing.age(LEASE_S / 2)
            wait_until(lambda: world.ageing.left_s(LEASE_S) > LEASE_S * 2 / 3, "the next renewal")
            assert take(world.open(), "replica-1") == []
        assert not lost.is_set()
        assert queues.complete(delivery, announce=(RESULTS, done("slow"))) is True
    assert delivery.attempt == 1
    assert results(other) == ["slow.done"]


def test_released_messages_are_there_at_once_and_count_no_attempt(queues: AnyBus, world: World) -> None:
    queues.publish(ROLLOUTS, job("one"))
    (delivery,) = take(queues)
    queues.release(delivery)
    assert queues.complete(delivery) is False
    (again,) = take(world.open(), "replica-1")
    assert (again.message.key, again.attempt) == ("one", 1)
    queues.release(delivery)
    assert take(queues) == [], "releasing what is another's changes nothing"


def test_attempts_grow_by_handlings_and_are_told_beyond_the_maximum(queues: AnyBus, world: World) -> None:
    queues.publish(ROLLOUTS, job("crasher"))
    attempts = [take(world.open())[0].attempt for _ in range(queues.max_attempts + 1)]
    assert attempts == [1, 2, 3, 4]


def test_what_is_handed_over_goes_to_that_consumer_alone_and_tells_who_refused_it(queues: AnyBus, world: World) -> None:
    queues.publish(ROLLOUTS, job("one"))
    (refused,) = take(queues, "replica-0")
    queues.hand_over(refused, "replica-1")
    queues.hand_over(refused, "replica-2")  # as an action that is repeated: it is not ours any more
    assert take(queues, "replica-0") == [] and take(world.open(), "replica-2") == []
    other = world.open()
    (given,) = take(other, "replica-1")
    assert (given.message.key, given.attempt, given.refused_by) == ("one", 1, ("replica-0",))
    other.hand_over(given, "replica-2")
    third = world.open()
    (last,) = take(third, "replica-2")
    assert (last.attempt, last.refused_by) == (1, ("replica-0", "replica-1"))
    assert third.complete(last) and queues.queue_depth(ROLLOUTS, STUDENTS_GROUP) == (0, 0)


def test_what_was_handed_to_a_dead_consumer_is_stolen_after_the_lease(queues: AnyBus, world: World) -> None:
    queues.publish(ROLLOUTS, job("one"))
    (refused,) = take(queues, "replica-0")
    queues.hand_over(refused, "gone")
    assert take(queues, "replica-0") == []
    world.expire()
    (again,) = take(queues, "replica-0", block_s=BLOCK_S)
    assert (again.attempt, again.refused_by) == (1, ("replica-0",))
