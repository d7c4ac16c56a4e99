"""A Redis that answers "not now": callers wait for it, services stay up, and a run goes on when it is well again."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shared.bus.keys import BROKER, RESULTS
from shared.bus.redis import RedisBus
from shared.bus.redis_link import NOT_NOW
from shared.contracts.heartbeats import Heartbeat
from shared.contracts.jobs import JobStarted
from shared.contracts.run import Status
from shared.errors import StorageError, UnavailableError
from shared.obs.presence import Presence
from tests.fakes.deployment import CONTEXT, ScriptedDeployment
from tests.fakes.refusing_redis import RefusingRedis
from tests.fakes.small_disk import mounted
from tests.fakes.valkey import ValkeyServer
from tests.fakes.waiting import WAIT_S, wait_until
from tests.unit.modeling.tiny_model import write_tiny_model

DETAIL = "as the server puts it."
MESSAGE = JobStarted(job_id="j", student="a", replica="0", attempt=1)
IMPATIENT_S = 0.2


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    with ValkeyServer(data_dir=tmp_path_factory.mktemp("valkey"), persist=True, appendonly="yes") as server:
        yield server


@pytest.fixture
def refusing(server: ValkeyServer) -> Iterator[RefusingRedis]:
    proxy = RefusingRedis(server.port)
    yield proxy
    proxy.close()


@pytest.fixture
def opened() -> Iterator[Callable[[str, float], RedisBus]]:
    """A bus on a URL whose calls go on so many seconds. Its sockets wait longer for what the server says: a machine
    that stands still makes no timeout of it."""
    buses: list[RedisBus] = []

    def open_bus(url: str, deadline_s: float) -> RedisBus:
        buses.append(RedisBus(f"{url}?socket_timeout={WAIT_S}", "not-now", deadline_s=deadline_s))
        return buses[-1]

    yield open_bus
    for bus in buses:
        bus.close()


@pytest.mark.parametrize("word", sorted(NOT_NOW))
def test_a_refusal_that_ends_by_itself_is_waited_for(
    refusing: RefusingRedis, opened: Callable[[str, float], RedisBus], word: str
) -> None:
    impatient, patient = opened(refusing.url, IMPATIENT_S), opened(refusing.url, 20)
    patient.create_queue(RESULTS, BROKER)
    refusing.refusal = f"{word} {DETAIL}"
    with pytest.raises(UnavailableError, match=rf"cannot do publish now \({word}\)"):
        impatient.publish(RESULTS, MESSAGE)
    if word == "OOM":
        return  # who waits for memory must not stand in the way of those who free it
    done: list[str] = []
    publishing = threading.Thread(target=lambda: done.append(patient.publish(RESULTS, MESSAGE)))
    publishing.start()
    time.sleep(0.3)
    assert not done
    refusing.refusal = None
    publishing.join(WAIT_S)
    assert len(done) == 1


def test_a_refusal_of_what_was_asked_is_not_waited_for(
    refusing: RefusingRedis, opened: Callable[[str, float], RedisBus]
) -> None:
    bus = opened(refusing.url, 20)
    refusing.refusal = "WRONGTYPE Operation against a key holding the wrong kind of value"
    began = time.monotonic()
    with pytest.raises(StorageError, match="refused ping: WRONGTYPE"):
        bus.ping()
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("word", ["NOREPLICAS", "NOPERM"])
def test_a_heartbeat_survives_whatever_the_server_says(
    refusing: RefusingRedis, opened: Callable[[str, float], RedisBus], word: str
) -> None:
    bus = opened(refusing.url, IMPATIENT_S)
    presence = Presence(bus, lambda: Heartbeat(service="broker", replica="7", state="ready", at=0.0), period_s=5)
    refusing.refusal = f"{word} {DETAIL}"
    presence.beat()
    refusing.refusal = None
    presence.beat()
    assert [beat.replica for beat in bus.heartbeats()] == ["7"]


def test_too_few_replicas_are_waited_for(server: ValkeyServer, opened: Callable[[str, float], RedisBus]) -> None:
    bus = opened(server.connection_url, IMPATIENT_S)
    bus.create_queue(RESULTS, BROKER)
    bus.link.client.config_set("min-replicas-to-write", 1)
    try:
        with pytest.raises(UnavailableError, match="NOREPLICAS"):
            bus.publish(RESULTS, MESSAGE)
    finally:
        bus.link.client.config_set("min-replicas-to-write", 0)
    bus.publish(RESULTS, MESSAGE)


def test_a_full_disk_under_the_append_only_file_is_waited_for(
    tmp_path: Path, opened: Callable[[str, float], RedisBus]
) -> None:
    with mounted(tmp_path / "disk", 8) as disk, ValkeyServer(data_dir=disk, persist=True, appendonly="yes") as server:
        impatient, patient = opened(server.connection_url, IMPATIENT_S), opened(server.connection_url, 30)
        patient.create_queue(RESULTS, BROKER)
        ballast = disk / "ballast"
        with pytest.raises(OSError, match="No space left"), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))
        with pytest.raises(UnavailableError, match="MISCONF"):
            for _ in range(10_000):
                impatient.publish(RESULTS, MESSAGE)
        ballast.unlink()
        patient.publish(RESULTS, MESSAGE)


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_a_run_goes_on_after_each_of_them(tmp_path: Path, refusing: RefusingRedis) -> None:
    """Every service of a run that trains: none ends, and the run comes to its end."""
    pytest.importorskip("torch")
    model = write_tiny_model(tmp_path / "tiny", context=CONTEXT)
    long_leases = ("bus.lease_s=120", "bus.leader_lease_s=120")
    running = ScriptedDeployment(
        tmp_path, "refused", model, f"bus.url={refusing.url}", "bus.deadline_s=1", *long_leases
    )
    try:
        running.until_training()
        # On a busy machine a call of the start may take longer than the deadline; who ended by that was started again.
        restarted = dict(running.launcher.restarts)
        for word in sorted(NOT_NOW):
            before = refusing.refused
            refusing.refusal = f"{word} {DETAIL}"
            time.sleep(2.5)  # longer than two heartbeats and a call's deadline
            wait_until(lambda: refusing.refused > before + 5, "the services to ask")  # noqa: B023
            refusing.refusal = None
        assert running.finish().status is Status.DONE
        assert running.launcher.restarts == restarted
    finally:
        running.close()
