"""Redis is killed and started again on its append-only file: nothing that stands there is lost, and the bus goes on."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from shared.bus.keys import BROKER, LEADER, RESULTS
from shared.bus.port import Commit
from shared.bus.redis import RedisBus
from shared.contracts.jobs import JobStarted
from shared.errors import UnavailableError
from tests.fakes.valkey import ValkeyServer
from tests.fakes.waiting import WAIT_S, wait_until

QUEUE = [(RESULTS, BROKER)]


def start(folder: Path, port: int | None = None) -> ValkeyServer:
    server = ValkeyServer(port=port, data_dir=folder, persist=True, appendonly="yes", appendfsync="everysec")
    server.start()
    return server


def server_process(bus: RedisBus) -> psutil.Process:
    return psutil.Process(int(bus.link.client.info("server")["process_id"]))


def wait_for_the_file(bus: RedisBus) -> None:
    """While an fsync lasts, `everysec` keeps back what it has acknowledged, for up to two seconds."""

    def written() -> bool:
        return bool(bus.link.client.info("persistence")["aof_buffer_length"] == 0)

    wait_until(written, "the append-only file to hold all of it")


def kill(process: psutil.Process) -> None:
    os.kill(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.01)


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Callable[[int | None], ValkeyServer]]:
    running: list[ValkeyServer] = []

    def run(port: int | None) -> ValkeyServer:
        running.append(start(tmp_path, port))
        return running[-1]

    yield run
    for server in running:
        server.stop()


def message(number: int) -> JobStarted:
    return JobStarted(job_id=f"j{number}", student="a", replica="0", attempt=1)


def test_a_killed_server_comes_back_with_everything_and_callers_wait_for_it(
    servers: Callable[[int | None], ValkeyServer],
) -> None:
    server = servers(None)
    bus = RedisBus(server.connection_url, "restart", lease_s=30, deadline_s=20)
    impatient = RedisBus(server.connection_url, "restart", deadline_s=0.3)
    bus.create_queue(RESULTS, BROKER)
    fence = bus.acquire_lease(LEADER, "broker-0", ttl_s=60)
    assert fence is not None
    for number in range(500):
        bus.publish(RESULTS, message(number))
    taken = bus.take(QUEUE, "broker-0", limit=10, block_s=0)
    bus.commit(Commit(fence=fence, revision=1, state="one", ack=taken[0]))

    wait_for_the_file(bus)
    kill(server_process(bus))
    with pytest.raises(UnavailableError, match="publish"):
        impatient.publish(RESULTS, message(0))
    published: list[str] = []
    waiting = threading.Thread(target=lambda: published.append(bus.publish(RESULTS, message(500))))
    waiting.start()
    servers(server.port)
    waiting.join(WAIT_S)

    assert len(published) == 1
    assert bus.load_state() == "one"
    assert bus.queue_depth(RESULTS, BROKER) == (491, 9)
    assert bus.renew(taken) == taken[1:]
    assert bus.complete(taken[1]) is True
    restarted = RedisBus(server.connection_url, "restart", lease_s=30)
    again = restarted.take(QUEUE, "broker-0", limit=1000, block_s=0)
    assert [delivery.message.key for delivery in again] == [message(n).key for n in range(2, 501)]
    assert [delivery.attempt for delivery in again[:9]] == [2] * 8 + [1]
    assert restarted.renew_lease(LEADER, "broker-0", fence, ttl_s=60) is True
    for opened in (bus, impatient, restarted):
        opened.close()
