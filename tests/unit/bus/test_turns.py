"""Turns on one card: one at a time, in the order of asking, and none for ever."""

import threading
import time

from shared.bus.keys import CARD
from shared.bus.turns import CardTurn
from shared.clock import SystemClock
from tests.fakes.bus.memory import MemoryBus
from tests.fakes.bus.memory_server import MemoryServer
from tests.fakes.bus.outliving import outlive, pass_s
from tests.fakes.student import HandClock
from tests.fakes.waiting import WAIT_S, wait_until

TTL_S = 0.6


def turn_of(server: MemoryServer, holder: str) -> CardTurn:
    return CardTurn(MemoryBus(server, lease_s=TTL_S), holder, SystemClock(), ttl_s=TTL_S)


def test_everybody_gets_the_card_alone_and_as_often_as_the_others() -> None:
    server, stopping, names = MemoryServer(HandClock()), threading.Event(), ("student-a", "student-b", "trainer-a")
    bus = MemoryBus(server, lease_s=TTL_S)
    begins = bus.ask_turn(CARD, "trainer-b", ttl_s=TTL_S)
    assert begins is not None
    order: list[str] = []
    waiting: list[list[str]] = []
    inside: list[str] = []
    crowds: list[list[str]] = []

    def work(name: str) -> None:
        turn = turn_of(server, name)
        while len(order) < 12 and turn.wait(stopping):
            inside.append(name)
            order.append(name)
            waiting.append(bus.waiting(CARD, ttl_s=TTL_S))
            time.sleep(0.02)
            crowds.append(list(inside))
            inside.remove(name)
            turn.give_back()

    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(bus.waiting(CARD, ttl_s=TTL_S)) == len(names), "all to wait")
    bus.release_lease(CARD, "trainer-b", begins)
    for thread in threads:
        thread.join(WAIT_S)
        assert not thread.is_alive()
    assert all(len(crowd) == 1 for crowd in crowds)
    assert set(order[: len(names)]) == set(names)
    # Who has just had it comes behind those who waited meanwhile, in their order.
    for at, (name, behind) in enumerate(zip(order, waiting, strict=True)):
        later = order[at + 1 :]
        until = later.index(name) if name in later else len(later)
        assert behind[:until] == later[: len(behind)][:until] and (name not in later or until >= len(behind))


def test_a_holder_keeps_it_and_is_told_who_waits() -> None:
    server = MemoryServer(HandClock())
    first, second = turn_of(server, "student-a"), turn_of(server, "trainer-a")
    assert first.ask() and first.held and not first.wanted()
    outlive(server, TTL_S)
    assert not second.ask()
    wait_until(first.wanted, "the first to be told")
    assert not first.lost
    first.give_back()
    assert not first.held
    assert second.wait(threading.Event())
    assert not second.wanted()
    second.give_back()


def test_a_holder_that_died_is_followed_by_the_next() -> None:
    server = MemoryServer(HandClock())
    # As of a process that was killed: nobody renews.
    assert MemoryBus(server, lease_s=TTL_S).ask_turn(CARD, "trainer-a", ttl_s=TTL_S) is not None
    second = turn_of(server, "student-a")
    assert not second.ask()
    pass_s(server, TTL_S * 1.2)
    assert second.wait(threading.Event())
    second.give_back()


def test_a_holder_whose_turn_went_to_another_knows_it() -> None:
    server = MemoryServer()
    turn = turn_of(server, "student-a")
    assert turn.ask()
    server.flush()
    assert MemoryBus(server, lease_s=TTL_S).ask_turn(CARD, "trainer-a", ttl_s=30) is not None
    wait_until(lambda: turn.lost, "the loss")
    assert turn.held
    turn.give_back()
    assert not turn.held and not turn.lost


def test_waiting_ends_when_it_is_told_to_and_goes_on_while_the_bus_is_away() -> None:
    server, stopping = MemoryServer(), threading.Event()
    server.down = True
    alive: list[float] = []

    def noted() -> None:
        alive.append(time.monotonic())
        server.down = len(alive) < 3

    turn = turn_of(server, "student-a")
    assert turn.wait(stopping, noted)
    assert len(alive) >= 3
    stopping.set()
    assert not turn_of(server, "trainer-a").wait(stopping)
    turn.give_back()
