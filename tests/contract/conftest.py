"""Both buses behind one harness: one server a session, a fresh run a test."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from shared.bus.keys import Keys
from shared.bus.redis import RedisBus
from tests.contract.ageing import Ageing, MemoryAgeing, RedisAgeing
from tests.contract.messages import QUEUES, RESULT_QUEUE
from tests.fakes.bus.memory import MemoryBus
from tests.fakes.bus.memory_server import MemoryServer
from tests.fakes.student import HandClock
from tests.fakes.valkey import ValkeyServer

LEASE_S = 60.0
"""No machine stands still so long: a lease runs out where a test lets it grow old (`World.age`), and nowhere else."""

AnyBus = MemoryBus | RedisBus
_RUNS = itertools.count()


@dataclass(frozen=True)
class World:
    """open: another process's bus on the same run. put_raw: bytes on a queue that no service would send. ageing: of
    what the server holds."""

    ageing: Ageing
    open: Callable[[], AnyBus]
    put_raw: Callable[[str, bytes], None]
    lose_everything: Callable[[], None]

    def expire(self) -> None:
        """Every lease of a message runs out."""
        self.ageing.age(LEASE_S * 1.2)


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = ValkeyServer(data_dir=tmp_path_factory.mktemp("valkey"), persist=True, appendonly="no")
    server.start()
    yield server.connection_url
    server.stop()


def redis_bus(url: str, run: str, *, event_cap: int = 100_000) -> RedisBus:
    return RedisBus(url, run, lease_s=LEASE_S, deadline_s=20, event_cap=event_cap)


@pytest.fixture
def run() -> str:
    return f"run-{next(_RUNS)}"


@pytest.fixture(params=["memory", "redis"])
def world(request: pytest.FixtureRequest, run: str) -> Iterator[World]:
    if request.param == "memory":
        yield _memory_world()
        return
    url: str = request.getfixturevalue("redis_url")
    opened: list[RedisBus] = []

    def open_bus() -> RedisBus:
        opened.append(redis_bus(url, run))
        return opened[-1]

    def put_raw(queue: str, data: bytes) -> None:
        first = opened[0]
        first.link.client.xadd(first.keys.queue(queue), {"m": data})

    def lose_everything() -> None:
        opened[0].link.client.flushall()

    with RedisBus(url, run).link.client as client:
        yield World(RedisAgeing(client, Keys(run)), open_bus, put_raw, lose_everything)
    for bus in opened:
        with suppress(OSError):
            bus.close()


def _memory_world() -> World:
    server = MemoryServer(HandClock())

    def put_raw(queue: str, data: bytes) -> None:
        with server.changed:
            server.queue(queue).add(data)

    return World(MemoryAgeing(server), lambda: MemoryBus(server, lease_s=LEASE_S), put_raw, server.flush)


@pytest.fixture
def bus(world: World) -> AnyBus:
    return world.open()


@pytest.fixture
def golden() -> Path:
    return Path(__file__).parent / "golden"


@pytest.fixture
def queues(bus: AnyBus) -> AnyBus:
    """A bus with the job queues of student a and the results."""
    for queue, group in [*QUEUES, *RESULT_QUEUE]:
        bus.create_queue(queue, group)
    return bus
