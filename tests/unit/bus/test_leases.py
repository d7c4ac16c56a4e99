"""Threads that keep leases: what they renew, and when they give up."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from shared.bus.keys import RESULTS
from shared.bus.leases import HeldLease, LeaseKeeper
from shared.bus.port import Delivery, HeldDeliveries
from shared.contracts.jobs import JobStarted
from shared.errors import UnavailableError
from tests.fakes.bus.memory import MemoryBus
from tests.fakes.bus.memory_server import MemoryServer
from tests.fakes.bus.outliving import is_renewed, outlive, pass_s
from tests.fakes.student import HandClock
from tests.fakes.waiting import WAIT_S, wait_until

LEASE_S = 0.2
QUEUE = [(RESULTS, "broker")]


@pytest.fixture
def server() -> MemoryServer:
    return MemoryServer(HandClock())


@pytest.fixture
def bus(server: MemoryServer) -> MemoryBus:
    bus = MemoryBus(server, lease_s=LEASE_S)
    bus.create_queue(RESULTS, "broker")
    return bus


def take_one(bus: MemoryBus) -> Delivery:
    bus.publish(RESULTS, JobStarted(job_id="j", student="a", replica="0", attempt=1))
    (delivery,) = bus.take(QUEUE, "mine", limit=1, block_s=0)
    return delivery


def thief_takes(server: MemoryServer) -> list[Delivery]:
    return MemoryBus(server, lease_s=LEASE_S).take(QUEUE, "thief", limit=1, block_s=0)


def test_a_held_delivery_stays_ours(bus: MemoryBus, server: MemoryServer) -> None:
    with LeaseKeeper(bus, lease_s=LEASE_S) as keeper:
        delivery = take_one(bus)
        lost = keeper.hold(delivery)
        outlive(server, LEASE_S)
        assert thief_takes(server) == []
        assert not lost.is_set()
    assert bus.complete(delivery)


def test_a_dropped_delivery_is_not_renewed_and_not_lost(bus: MemoryBus, server: MemoryServer) -> None:
    with LeaseKeeper(bus, lease_s=LEASE_S) as keeper:
        delivery = take_one(bus)
        lost = keeper.hold(delivery)
        keeper.drop(delivery)
        keeper.drop(delivery)
        pass_s(server, LEASE_S * 0.6)
        time.sleep(LEASE_S)
        pass_s(server, LEASE_S * 0.6)
        assert len(thief_takes(server)) == 1
        assert not lost.wait(LEASE_S)


def test_a_stolen_delivery_is_lost_and_the_others_are_kept(bus: MemoryBus, server: MemoryServer) -> None:
    stolen = take_one(bus)
    pass_s(server, LEASE_S * 1.2)
    assert len(thief_takes(server)) == 1
    with LeaseKeeper(bus, lease_s=LEASE_S) as keeper:
        lost, kept = keeper.hold(stolen), keeper.hold(take_one(bus))
        assert lost.wait(WAIT_S)
        assert not kept.wait(LEASE_S)


def test_a_delivery_is_lost_when_the_server_is_away_for_a_whole_lease(bus: MemoryBus, server: MemoryServer) -> None:
    with LeaseKeeper(bus, lease_s=LEASE_S) as keeper:
        begin = time.monotonic()
        lost = keeper.hold(take_one(bus))
        server.down = True
        assert lost.wait(WAIT_S)
        assert time.monotonic() - begin >= LEASE_S


class TakenAgain(MemoryBus):
    """While a renewal is under way, what it is about is released and taken again."""

    def __init__(self, server: MemoryServer) -> None:
        super().__init__(server, lease_s=LEASE_S)
        self.before: Callable[[], None] = lambda: None
        self.after: Callable[[], None] = lambda: None

    def renew(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        self.before()
        kept = super().renew(deliveries)
        self.after()
        return kept


def test_what_was_taken_again_is_not_lost_with_what_was_released(bus: MemoryBus, server: MemoryServer) -> None:
    bus = TakenAgain(server)
    first = take_one(bus)
    again = threading.Event()

    def give_back() -> None:
        keeper.drop(first)
        bus.release(first)

    def take_again() -> None:
        bus.before = bus.after = lambda: None
        keeper.hold(*bus.take(QUEUE, "mine", limit=1, block_s=0))
        again.set()

    with LeaseKeeper(bus, lease_s=LEASE_S) as keeper:
        bus.before, bus.after = give_back, take_again
        keeper.hold(first)
        assert again.wait(WAIT_S)
        outlive(server, LEASE_S)
        assert thief_takes(server) == []


def test_only_the_delivery_that_is_in_hand_is_dropped(bus: MemoryBus) -> None:
    held = HeldDeliveries()
    released = take_one(bus)
    again = replace(released)
    held.add([released])
    held.add([again])
    held.drop(released)
    assert held.ids(RESULTS, "broker", "mine") == [again.entry_id]
    held.drop(again)
    assert held.ids(RESULTS, "broker", "mine") == []


class CutOff(MemoryBus):
    """On a server that others reach, and this one does not while it is told so."""

    away = False
    failed = 0

    def renew(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        if self.away:
            self.failed += 1
            raise UnavailableError("no answer")
        return super().renew(deliveries)

    def renew_lease(self, name: str, holder: str, token: int, *, ttl_s: float) -> bool:
        if self.away:
            raise UnavailableError("no answer")
        return super().renew_lease(name, holder, token, ttl_s=ttl_s)


@pytest.mark.parametrize("rival", [False, True])
def test_who_waits_has_lost_what_the_server_says_once_it_answers(server: MemoryServer, rival: bool) -> None:
    bus, others = CutOff(server, lease_s=LEASE_S), MemoryBus(server, lease_s=LEASE_S)
    bus.create_queue(RESULTS, "broker")
    lease = HeldLease(bus, "a", "trainer-0", ttl_s=LEASE_S, waits=True)
    with LeaseKeeper(bus, lease_s=LEASE_S, waits=True) as keeper:
        assert lease.try_acquire()
        delivery = take_one(bus)
        lost = keeper.hold(delivery)
        bus.away = True
        time.sleep(LEASE_S * 2.5)
        pass_s(server, LEASE_S * 2.5)
        assert not lost.is_set() and not lease.lost.is_set()
        if rival:
            assert others.acquire_lease("a", "trainer-1", ttl_s=30) == 2
            assert [one.attempt for one in others.take(QUEUE, "thief", limit=1, block_s=0)] == [2]
        bus.away = False
        if rival:
            assert lost.wait(WAIT_S) and lease.lost.wait(WAIT_S)
        else:
            wait_until(lambda: is_renewed(server, LEASE_S), "the next renewals")
            assert not lost.is_set() and not lease.lost.is_set()
        assert others.take(QUEUE, "thief", limit=1, block_s=0) == []
        assert bus.complete(delivery) is not rival
    lease.release()


class BrokenBus(MemoryBus):
    """Its renewals raise what no bus promises to raise."""

    broken = False

    def renew(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        if self.broken:
            raise KeyError("a bug")
        return super().renew(deliveries)

    def renew_lease(self, name: str, holder: str, token: int, *, ttl_s: float) -> bool:
        if self.broken:
            raise KeyError("a bug")
        return super().renew_lease(name, holder, token, ttl_s=ttl_s)


def test_whatever_a_renewal_raises_what_was_held_is_lost_and_the_keeper_goes_on(server: MemoryServer) -> None:
    bus = BrokenBus(server, lease_s=LEASE_S)
    bus.create_queue(RESULTS, "broker")
    with LeaseKeeper(bus, lease_s=LEASE_S) as keeper:
        lost = keeper.hold(take_one(bus))
        bus.broken = True
        assert lost.wait(WAIT_S)
        later = keeper.hold(take_one(bus))
        assert later.wait(WAIT_S), "what is held after the first failure"
        bus.broken = False
        assert not keeper.hold(take_one(bus)).wait(LEASE_S * 3)


def test_whatever_a_renewal_raises_a_named_lease_is_lost(server: MemoryServer) -> None:
    bus = BrokenBus(server, lease_s=LEASE_S)
    lease = HeldLease(bus, "a", "trainer-0", ttl_s=LEASE_S)
    assert lease.try_acquire()
    bus.broken = True
    assert lease.lost.wait(WAIT_S)
    lease.release()


def test_a_short_absence_loses_nothing(server: MemoryServer) -> None:
    bus = CutOff(server, lease_s=LEASE_S)
    bus.create_queue(RESULTS, "broker")
    with LeaseKeeper(bus, lease_s=4.5) as keeper:
        lost = keeper.hold(take_one(bus))
        pass_s(server, 1)
        bus.away = True
        wait_until(lambda: bus.failed > 0, "a renewal without an answer")
        bus.away = False
        wait_until(lambda: is_renewed(server, LEASE_S), "the next renewal")
        assert not lost.is_set()


def test_closing_ends_the_thread(bus: MemoryBus) -> None:
    before = threading.active_count()
    keeper = LeaseKeeper(bus, lease_s=LEASE_S)
    assert threading.active_count() == before + 1
    keeper.close()
    assert threading.active_count() == before


def test_a_named_lease_is_held_until_it_is_released(bus: MemoryBus, server: MemoryServer) -> None:
    first = HeldLease(bus, "a", "trainer-0", ttl_s=LEASE_S)
    second = HeldLease(bus, "a", "trainer-1", ttl_s=LEASE_S)
    assert first.try_acquire(floor=4) and first.token == 5
    outlive(server, LEASE_S)
    assert not second.try_acquire()
    assert not first.lost.is_set()
    first.release()
    first.release()
    assert second.try_acquire() and second.token == 6
    second.release()


def test_a_waiting_holder_gets_the_lease_of_one_that_died(bus: MemoryBus, server: MemoryServer) -> None:
    assert bus.acquire_lease("a", "dead", ttl_s=LEASE_S) == 1
    lease = HeldLease(bus, "a", "alive", ttl_s=LEASE_S)
    assert not lease.try_acquire()
    pass_s(server, LEASE_S * 1.2)
    assert lease.try_acquire() and lease.token == 2
    lease.release()


def test_a_lease_that_another_took_is_lost(bus: MemoryBus) -> None:
    lease = HeldLease(bus, "a", "trainer-0", ttl_s=LEASE_S)
    assert lease.try_acquire()
    assert bus.acquire_lease("a", "trainer-0", ttl_s=30) == 2, "the same name, started a second time"
    assert lease.lost.wait(WAIT_S)
    lease.release()
    assert bus.renew_lease("a", "trainer-0", 2, ttl_s=30), "releasing a lost lease leaves the new one alone"


@pytest.mark.parametrize("happens", ["down", "flushed"])
def test_a_lease_is_lost_with_its_server(bus: MemoryBus, server: MemoryServer, happens: str) -> None:
    lease = HeldLease(bus, "a", "trainer-0", ttl_s=LEASE_S)
    assert lease.try_acquire()
    if happens == "down":
        server.down = True
    else:
        server.flush()
    assert lease.lost.wait(WAIT_S)
    server.down = False
    lease.release()


def test_a_token_exists_only_while_the_lease_is_held(bus: MemoryBus) -> None:
    lease = HeldLease(bus, "a", "trainer-0", ttl_s=LEASE_S)
    with pytest.raises(RuntimeError, match="acquire"):
        _ = lease.token
    assert lease.try_acquire()
    with pytest.raises(RuntimeError, match="held already"):
        lease.try_acquire()
    lease.release()
    with pytest.raises(RuntimeError, match="acquire"):
        _ = lease.token
