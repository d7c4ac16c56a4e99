"""What only a real server can show: keys of the wrong type, foreign entries, the cap of the log, and absence."""

import time
from typing import Any

import pytest

from shared.bus.keys import LEADER, RESULTS, jobs
from shared.bus.port import WAIT_SLICE_S, Commit
from shared.bus.redis import RedisBus
from shared.bus.redis_work import DEADLINE_S
from shared.contracts.jobs import JobKind, PayloadRef
from shared.errors import ConfigError, StorageError, UnavailableError
from tests.contract.conftest import redis_bus
from tests.contract.messages import BROKER_GROUP, ROLLOUTS, STUDENTS_GROUP, job, job_input, started, status
from tests.fakes.listening import deaf_port


@pytest.fixture
def bus(redis_url: str, run: str) -> RedisBus:
    bus = redis_bus(redis_url, run, event_cap=100)
    bus.create_queue(ROLLOUTS, STUDENTS_GROUP)
    bus.create_queue(RESULTS, BROKER_GROUP)
    assert bus.acquire_lease(LEADER, "broker-0", ttl_s=30) == 1
    return bus


def test_who_finds_nothing_again_and_again_asks_with_one_command_and_hears_of_what_is_new_at_once(
    redis_url: str, run: str
) -> None:
    """A replica without work takes ten times a second, and there may be a thousand of them."""
    bus = RedisBus(redis_url, run, lease_s=60.0, deadline_s=10.0)
    queues = [(jobs("a", kind), STUDENTS_GROUP) for kind in JobKind]
    for queue, group in queues:
        bus.create_queue(queue, group)

    def scripts() -> int:
        told: Any = bus.link.client.info("commandstats")
        return int(told["cmdstat_evalsha"]["calls"])

    bus.take(queues, "replica-0", limit=1, block_s=0)  # one whose scripts the server may not know yet
    bus.publish(ROLLOUTS, job("one"))
    before = scripts()
    (taken,) = bus.take(queues, "replica-0", limit=1, block_s=0)
    assert taken.message.key == "one" and scripts() > before
    assert bus.take(queues, "replica-0", limit=1, block_s=0) == []
    before, began_s = scripts(), time.monotonic()
    for _ in range(TURNS):
        assert bus.take(queues, "replica-0", limit=1, block_s=0) == []
    # One that is due by now, and more where the machine stood still meanwhile.
    looks = 1 + (time.monotonic() - began_s) / WAIT_SLICE_S
    assert scripts() - before <= len(queues) * looks < len(queues) * TURNS
    other = RedisBus(redis_url, run, lease_s=60.0, deadline_s=10.0)
    assert other.take(queues, "replica-1", limit=1, block_s=0) == []
    bus.release(taken)
    (stolen,) = other.take(queues, "replica-1", limit=1, block_s=10.0)
    assert stolen.message.key == "one", "what another one gives back is heard of soon"
    for each in (bus, other):
        each.close()


TURNS = 100

WRONG = ["state", "revision", "events", "serve:a", "res:a:s17", ROLLOUTS]


@pytest.mark.parametrize("name", WRONG)
def test_a_key_of_the_wrong_type_refuses_the_commit_whole(bus: RedisBus, name: str) -> None:
    bus.publish(RESULTS, started("one"))
    (event,) = bus.take([(RESULTS, BROKER_GROUP)], "broker-0", limit=1, block_s=0)
    client, key = bus.link.client, bus.keys.prefix + name
    client.delete(key)
    client.lpush(key, "foreign")
    before = sorted(client.scan_iter(match=f"{bus.keys.prefix}*"))
    commit = Commit(
        fence=1,
        revision=1,
        state="one",
        publish=[(ROLLOUTS, job("one"))],
        payloads=[job_input("one")],
        events=[status(1)],
        serve=[("a", "{}")],
        ack=event,
    )
    with pytest.raises(StorageError, match="found a list"):
        bus.commit(commit)
    assert sorted(client.scan_iter(match=f"{bus.keys.prefix}*")) == before
    assert bus.renew([event]) == [event]
    client.delete(key)
    bus.create_queue(ROLLOUTS, STUDENTS_GROUP)
    bus.commit(commit)
    assert bus.load_state() == "one"


def test_an_entry_without_an_envelope_is_buried_with_its_fields(bus: RedisBus) -> None:
    bus.link.client.xadd(bus.keys.queue(ROLLOUTS), {"colour": b"re\xffd"})
    assert bus.take([(ROLLOUTS, STUDENTS_GROUP)], "replica-0", limit=1, block_s=0) == []
    (letter,) = bus.dead_letters()
    assert (letter.raw, letter.fields) == (b"", {"colour": r"re\xffd"})
    assert "'colour'" in letter.reason
    assert bus.retry_dead_letter(letter.entry_id) is True
    assert bus.take([(ROLLOUTS, STUDENTS_GROUP)], "replica-0", limit=1, block_s=0) == []
    assert len(bus.dead_letters()) == 1


def test_the_log_is_capped_and_work_is_not(bus: RedisBus) -> None:
    for number in range(600):
        bus.emit(status(number))
        bus.publish(ROLLOUTS, job(f"j{number}"))
    assert 100 <= bus.link.client.xlen(bus.keys.events) < 400
    assert bus.events_were_trimmed() is True
    first = bus.first_event_id()
    assert first is not None and first == bus.read_events("0", count=1, block_s=0)[0][0]
    assert bus.queue_depth(ROLLOUTS, STUDENTS_GROUP) == (600, 0)


def test_an_unreadable_event_is_passed_over(bus: RedisBus) -> None:
    for _ in range(3):
        bus.link.client.xadd(bus.keys.events, {"e": '{"kind":"of another release"}'})
    bus.emit(status(1))
    (found,) = bus.read_events("0", count=2, block_s=0)
    assert found[1] == status(1)
    assert bus.read_events(found[0], count=2, block_s=0) == []


def test_trimming_drops_what_was_acknowledged_but_not_deleted(bus: RedisBus) -> None:
    for number in range(3):
        bus.publish(ROLLOUTS, job(f"j{number}"))
    first, second = bus.take([(ROLLOUTS, STUDENTS_GROUP)], "replica-0", limit=2, block_s=0)
    stream = bus.keys.queue(ROLLOUTS)
    bus.link.client.xack(stream, STUDENTS_GROUP, first.entry_id)
    assert bus.trim(ROLLOUTS, STUDENTS_GROUP) == 1
    bus.link.client.xack(stream, STUDENTS_GROUP, second.entry_id)
    assert bus.trim(ROLLOUTS, STUDENTS_GROUP) == 1
    assert bus.queue_depth(ROLLOUTS, STUDENTS_GROUP) == (1, 0)


def test_nothing_is_left_of_finished_work(bus: RedisBus) -> None:
    bus.publish(ROLLOUTS, job("one"))
    (delivery,) = bus.take([(ROLLOUTS, STUDENTS_GROUP)], "replica-0", limit=1, block_s=0)
    bus.complete(delivery)
    assert bus.link.client.xlen(bus.keys.queue(ROLLOUTS)) == 0
    assert not bus.link.client.exists(bus.keys.attempts(ROLLOUTS))


def test_a_payload_key_of_the_wrong_type_is_a_storage_error(bus: RedisBus) -> None:
    ref = PayloadRef(key="state", field="x", sha256="0" * 64)
    bus.commit(Commit(fence=1, revision=1, state="one"))
    with pytest.raises(StorageError, match="get_payload"):
        bus.get_payload(ref)


def test_a_server_that_is_not_there_is_named_within_the_deadline() -> None:
    with deaf_port() as port:
        bus = RedisBus(f"redis://someone:secret@127.0.0.1:{port}/0", "r", deadline_s=0.3)
        begin = time.monotonic()
        with pytest.raises(UnavailableError) as raised:
            bus.publish(ROLLOUTS, job("one"))
    assert time.monotonic() - begin < DEADLINE_S / 2, "its own, not what is usual"
    assert f"redis://127.0.0.1:{port}/0 did not answer publish within 0.3 s" in str(raised.value)
    assert "secret" not in str(raised.value)


def test_a_full_server_tells_the_publisher(bus: RedisBus) -> None:
    client = bus.link.client
    client.config_set("maxmemory", "1")
    try:
        with pytest.raises(UnavailableError, match="full"):
            bus.publish(ROLLOUTS, job("one"))
    finally:
        client.config_set("maxmemory", "0")
    assert bus.queue_depth(ROLLOUTS, STUDENTS_GROUP) == (0, 0)


@pytest.mark.parametrize("url", ["http://host:1", "redis://host:notaport", "nothing"])
def test_what_is_not_a_redis_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="redis://host:6379/0"):
        RedisBus(url, "r")


def test_a_take_that_fails_at_a_later_queue_keeps_nothing_from_the_next_take(bus: RedisBus) -> None:
    """What the first queue handed out did not reach the caller: it is not in anybody's hands."""
    bus.publish(ROLLOUTS, job("one"))
    bus.link.client.delete(bus.keys.queue(RESULTS))
    bus.link.client.set(bus.keys.queue(RESULTS), "foreign")
    both = [(ROLLOUTS, STUDENTS_GROUP), (RESULTS, BROKER_GROUP)]
    with pytest.raises(StorageError):
        bus.take(both, "replica-0", limit=4, block_s=0)
    (again,) = bus.take(both[:1], "replica-0", limit=4, block_s=0)
    assert again.message.key == "one"
    assert bus.take(both[:1], "replica-0", limit=4, block_s=0) == [], "now it is"
