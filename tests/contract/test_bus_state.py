"""The port's promises about commits, leases, versions, the log and presence, on both buses."""

import threading
import time
from dataclasses import replace

import pytest

from shared.bus.keys import LEADER, RESULTS, trainer_lease
from shared.bus.port import Commit, Delivery
from shared.contracts.heartbeats import Heartbeat
from shared.errors import ConfigError, FencedError, StorageError, UnavailableError
from tests.contract.conftest import AnyBus, World
from tests.contract.messages import (
    BROKER_GROUP,
    RESULT_QUEUE,
    ROLLOUTS,
    STUDENTS_GROUP,
    job,
    job_input,
    published,
    started,
    status,
    step_done,
)


@pytest.fixture
def broker(bus: AnyBus) -> AnyBus:
    """A bus with the queues of a broker, whose lease has the token 1."""
    bus.create_queue(RESULTS, BROKER_GROUP)
    bus.create_queue(ROLLOUTS, STUDENTS_GROUP)
    assert bus.acquire_lease(LEADER, "broker-0", ttl_s=30) == 1
    return bus


def event_in_hand(bus: AnyBus) -> Delivery:
    bus.publish(RESULTS, started("one"))
    (delivery,) = bus.take(RESULT_QUEUE, "broker-0", limit=1, block_s=0)
    return delivery


def full_commit(bus: AnyBus, revision: int = 1) -> Commit:
    return Commit(
        fence=1,
        revision=revision,
        state=f'{{"revision":{revision}}}',
        publish=[(ROLLOUTS, job("one")), (ROLLOUTS, job("two"))],
        payloads=[job_input("one"), job_input("two")],
        events=[status(1), status(2)],
        serve=[("a", '{"live":"a@v1"}'), ("b", '{"live":"b@v1"}')],
        ack=event_in_hand(bus),
    )


def assert_untouched(bus: AnyBus, commit: Commit) -> None:
    """Nothing of `commit` can be seen, and its event is still in hand."""
    assert commit.ack is not None
    assert bus.load_state() is None
    assert bus.serve_set("a") is None
    assert bus.queue_depth(ROLLOUTS, STUDENTS_GROUP)[0] == 0
    assert bus.read_events("0", count=9, block_s=0) == []
    with pytest.raises(StorageError, match="absent"):
        bus.get_payload(commit.payloads[0][0])
    assert bus.renew([commit.ack]) == [commit.ack]


def test_a_commit_moves_everything_together(broker: AnyBus) -> None:
    commit = full_commit(broker)
    broker.commit(commit)
    assert broker.load_state() == commit.state
    assert broker.serve_set("a") == '{"live":"a@v1"}'
    assert broker.serve_set("c") is None
    taken = broker.take([(ROLLOUTS, STUDENTS_GROUP)], "replica-0", limit=9, block_s=0)
    assert [delivery.message.key for delivery in taken] == ["one", "two"]
    assert broker.get_payload(job_input("two")[0]) == job_input("two")[1]
    assert [event for _, event in broker.read_events("0", count=9, block_s=0)] == [status(1), status(2)]
    assert broker.queue_depth(RESULTS, BROKER_GROUP) == (0, 0)


def test_a_commit_whose_answer_was_lost_is_not_applied_twice(broker: AnyBus) -> None:
    commit = full_commit(broker)
    broker.commit(commit)
    broker.commit(commit)
    assert broker.queue_depth(ROLLOUTS, STUDENTS_GROUP) == (2, 0)
    assert len(broker.read_events("0", count=9, block_s=0)) == 2


@pytest.mark.parametrize("fence", [0, 2])
def test_another_fence_is_refused_whole(broker: AnyBus, fence: int) -> None:
    commit = replace(full_commit(broker), fence=fence)
    with pytest.raises(FencedError, match=f"token {fence}"):
        broker.commit(commit)
    assert_untouched(broker, commit)


def test_a_broker_that_lost_its_lease_cannot_commit(broker: AnyBus, world: World) -> None:
    other = world.open()
    broker.release_lease(LEADER, "broker-0", 1)
    assert other.acquire_lease(LEADER, "broker-1", ttl_s=30) == 2
    commit = full_commit(broker)
    with pytest.raises(FencedError):
        broker.commit(commit)
    assert_untouched(broker, commit)


@pytest.mark.parametrize("revision", [4, 5, 7])
def test_the_revision_grows_by_one(broker: AnyBus, revision: int) -> None:
    broker.commit(Commit(fence=1, revision=5, state="five"))
    with pytest.raises(FencedError, match=f"revision {revision}"):
        broker.commit(Commit(fence=1, revision=revision, state="other", events=[status(1)]))
    assert broker.load_state() == "five"
    assert broker.read_events("0", count=9, block_s=0) == []
    broker.commit(Commit(fence=1, revision=6, state="six"))
    assert broker.load_state() == "six"


def test_an_event_that_is_not_in_hand_any_more_is_not_committed(broker: AnyBus, world: World) -> None:
    commit = full_commit(broker)
    world.expire()
    (stolen,) = world.open().take(RESULT_QUEUE, "broker-1", limit=1, block_s=0)
    with pytest.raises(FencedError, match=r"one\.started"):
        broker.commit(commit)
    assert broker.load_state() is None
    assert broker.queue_depth(ROLLOUTS, STUDENTS_GROUP) == (0, 0)
    assert stolen.attempt == 2


def test_a_commit_to_a_queue_without_a_group_is_refused_whole(broker: AnyBus) -> None:
    commit = full_commit(broker)
    wider = replace(commit, publish=[*commit.publish, ("jobs:b:rollout", job("three"))])
    with pytest.raises(UnavailableError, match="jobs:b:rollout"):
        broker.commit(wider)
    assert_untouched(broker, commit)


def test_a_server_that_lost_its_data_refuses_the_old_fence(broker: AnyBus, world: World) -> None:
    world.lose_everything()
    with pytest.raises(FencedError, match="lost its data"):
        broker.commit(Commit(fence=1, revision=1, state="one"))
    assert broker.acquire_lease(LEADER, "broker-0", ttl_s=30, floor=7) == 8
    broker.commit(Commit(fence=8, revision=518, state="rebuilt"))
    assert broker.load_state() == "rebuilt"


# Leases --------------------------------------------------------------------------------------------------
def test_one_holder_at_a_time_and_tokens_grow(bus: AnyBus) -> None:
    first = bus.acquire_lease("a", "trainer-0", ttl_s=30)
    assert first is not None
    assert bus.acquire_lease("a", "trainer-1", ttl_s=30) is None
    assert bus.acquire_lease("b", "trainer-1", ttl_s=30) is not None, "leases do not depend on each other"
    bus.release_lease("a", "trainer-1", first)
    assert bus.acquire_lease("a", "trainer-1", ttl_s=30) is None, "only its holder releases a lease"
    bus.release_lease("a", "trainer-0", first)
    assert bus.acquire_lease("a", "trainer-1", ttl_s=30) == first + 1


def test_a_restarted_holder_gets_its_lease_at_once_with_a_new_token(bus: AnyBus) -> None:
    first = bus.acquire_lease("a", "trainer-0", ttl_s=30)
    second = bus.acquire_lease("a", "trainer-0", ttl_s=30)
    assert first is not None and second == first + 1
    assert bus.renew_lease("a", "trainer-0", first, ttl_s=30) is False
    assert bus.renew_lease("a", "trainer-0", second, ttl_s=30) is True


def test_a_token_is_above_the_floor_and_above_every_earlier_one(bus: AnyBus) -> None:
    assert bus.acquire_lease("a", "x", ttl_s=30, floor=41) == 42
    assert bus.acquire_lease("a", "x", ttl_s=30, floor=3) == 43


def test_a_lease_runs_out_unless_renewed(bus: AnyBus, world: World) -> None:
    token = bus.acquire_lease("a", "trainer-0", ttl_s=30)
    assert token is not None
    for _ in range(3):
        world.ageing.age(15)
        assert bus.renew_lease("a", "trainer-0", token, ttl_s=30) is True
        assert bus.acquire_lease("a", "trainer-1", ttl_s=30) is None
    world.ageing.age(35)
    assert bus.renew_lease("a", "trainer-0", token, ttl_s=30) is True, "nobody took it since"
    world.ageing.age(35)
    assert bus.acquire_lease("a", "trainer-1", ttl_s=30) == token + 1
    assert bus.renew_lease("a", "trainer-0", token, ttl_s=30) is False


def test_turns_go_in_the_order_of_asking(bus: AnyBus) -> None:
    def ask(holder: str) -> int | None:
        return bus.ask_turn("card", holder, ttl_s=30)

    assert bus.waiting("card", ttl_s=30) == []
    first = ask("a")
    assert first is not None
    assert [ask("b"), ask("c"), ask("b"), ask("d")] == [None] * 4
    assert bus.waiting("card", ttl_s=30) == ["b", "c", "d"]
    bus.release_lease("card", "a", first)
    # It is free, and asked for by others who came later, and again by who had it: that is no turn before b's.
    assert [ask("c"), ask("a"), ask("d")] == [None] * 3
    second = ask("b")
    assert second == first + 1
    assert bus.waiting("card", ttl_s=30) == ["c", "d", "a"]
    assert bus.renew_lease("card", "b", second, ttl_s=30) is True
    bus.release_lease("card", "b", second)
    assert [ask("a"), ask("d"), ask("c")] == [None, None, second + 1]


def test_who_died_while_it_waited_or_had_its_turn_is_passed_over(bus: AnyBus, world: World) -> None:
    assert bus.ask_turn("card", "a", ttl_s=30) is not None
    assert bus.ask_turn("card", "b", ttl_s=30) is None
    assert bus.ask_turn("card", "c", ttl_s=30) is None
    # Neither a, which has it, nor b, which is next, says anything more.
    world.ageing.age(20)
    assert bus.ask_turn("card", "c", ttl_s=30) is None
    world.ageing.age(20)
    assert bus.ask_turn("card", "c", ttl_s=30) == 2
    assert bus.waiting("card", ttl_s=30) == []


# Weights -------------------------------------------------------------------------------------------------
def announced(bus: AnyBus) -> list[str]:
    return [d.message.key for d in bus.take(RESULT_QUEUE, "broker-0", limit=99, block_s=0)]


def test_each_step_is_announced_and_answered(broker: AnyBus) -> None:
    token = broker.acquire_lease(trainer_lease("a"), "trainer-0", ttl_s=30)
    assert token is not None
    for steps in (1, 2, 3):
        assert broker.announce_version(published(steps), step_done(steps), token) is True
    assert announced(broker) == ["a.1.done", "a.2.done", "a.3.done"]


@pytest.mark.parametrize("steps", [1, 2])
def test_announcing_again_only_answers_again(broker: AnyBus, steps: int) -> None:
    token = broker.acquire_lease(trainer_lease("a"), "trainer-0", ttl_s=30)
    assert token is not None
    broker.announce_version(published(2), step_done(2), token)
    assert broker.announce_version(published(steps), step_done(steps), token) is False
    assert announced(broker) == ["a.2.done", f"a.{steps}.done"]


def test_a_stale_trainer_cannot_publish(broker: AnyBus, world: World) -> None:
    old = broker.acquire_lease(trainer_lease("a"), "trainer-0", ttl_s=30)
    world.ageing.age(35)
    new = broker.acquire_lease(trainer_lease("a"), "trainer-1", ttl_s=30)
    assert old is not None and new is not None
    with pytest.raises(FencedError, match=f"token {old}"):
        broker.announce_version(published(1), step_done(1), old)
    assert announced(broker) == []
    assert broker.announce_version(published(1), step_done(1), new) is True


def test_a_version_is_not_announced_where_nobody_reads_results(bus: AnyBus) -> None:
    token = bus.acquire_lease(trainer_lease("a"), "trainer-0", ttl_s=30)
    assert token is not None
    with pytest.raises(UnavailableError, match="results"):
        bus.announce_version(published(1), step_done(1), token)
    bus.create_queue(*RESULT_QUEUE[0])
    assert bus.announce_version(published(1), step_done(1), token) is True


# Log and presence ----------------------------------------------------------------------------------------
def test_events_are_read_page_by_page_in_order(bus: AnyBus) -> None:
    assert bus.first_event_id() is None and bus.events_were_trimmed() is False
    for round_ in range(7):
        bus.emit(status(round_))
    cursor, seen = "0", []
    while page := bus.read_events(cursor, count=3, block_s=0):
        assert len(page) <= 3
        seen += [event for _, event in page]
        cursor = page[-1][0]
    assert seen == [status(round_) for round_ in range(7)]
    assert bus.first_event_id() == bus.read_events("0", count=1, block_s=0)[0][0]
    assert bus.events_were_trimmed() is False


def test_a_reader_of_events_is_woken(bus: AnyBus, world: World) -> None:
    writer = threading.Timer(0.1, world.open().emit, args=(status(1),))
    writer.start()
    begin = time.monotonic()
    ((_, event),) = bus.read_events("0", count=9, block_s=60)
    writer.join()
    assert event == status(1)
    assert time.monotonic() - begin < 30


def test_reading_events_ends_after_the_wait(bus: AnyBus) -> None:
    begin = time.monotonic()
    assert bus.read_events("0", count=9, block_s=0.15) == []
    assert time.monotonic() - begin >= 0.15


@pytest.mark.parametrize("after", ["", "x", "1-", "-1", "1-2-3", "0\n"])
def test_a_cursor_that_is_not_an_id_is_refused(bus: AnyBus, after: str) -> None:
    with pytest.raises(ConfigError, match="event id"):
        bus.read_events(after, count=1, block_s=0)


def test_heartbeats_go_when_they_are_not_renewed(bus: AnyBus, world: World) -> None:
    beats = [Heartbeat(service="student", replica=str(n), state="ready", at=1.0) for n in range(2)]
    bus.beat(beats[0], ttl_s=30)
    bus.beat(beats[1], ttl_s=600)
    assert bus.heartbeats() == beats
    world.ageing.age(35)
    assert bus.heartbeats() == [beats[1]]


def test_runs_do_not_see_each_other_and_a_ping_is_answered(bus: AnyBus) -> None:
    bus.ping()
    assert bus.load_state() is None
    assert bus.heartbeats() == []
