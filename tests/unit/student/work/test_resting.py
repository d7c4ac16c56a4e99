"""An engine that shares its card: awake in its turn alone, asked only while awake, and nobody starves."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.student.engines.port import EngineAwayError, Sleeper
from services.student.engines.scripted import Script, ScriptedEngine
from services.student.work.resting import LINGER_S, MOST_S, Rest
from shared.bus.turns import CardTurn
from shared.clock import SystemClock
from shared.contracts.jobs import JobDone, JobKind
from tests.fakes.bus.memory import MemoryBus
from tests.fakes.bus.memory_server import MemoryServer
from tests.fakes.engine import FakeEngine
from tests.fakes.student import HandClock, StudentBench, publish_version
from tests.fakes.waiting import WAIT_S


class Ground:
    """An engine that was begun in its turn, and a trainer that may ask for one."""

    def __init__(self) -> None:
        self.server, self.clock, self.engine = MemoryServer(), HandClock(), FakeEngine()
        self.turn, self.trainer = (
            CardTurn(MemoryBus(self.server, lease_s=60), holder, self.clock, ttl_s=60)
            for holder in ("student-a", "trainer-a")
        )
        assert self.turn.ask()
        self.rest = Rest(self.engine, self.turn, self.clock, lambda: None)

    def pass_s(self, seconds: float) -> None:
        self.clock.now_s += seconds

    def close(self) -> None:
        for turn in (self.turn, self.trainer):
            turn.give_back()


@pytest.fixture
def ground() -> Iterator[Ground]:
    ground = Ground()
    yield ground
    ground.close()


def test_with_nothing_to_do_it_sleeps_before_it_gives_its_turn_back(ground: Ground) -> None:
    ground.rest.settle(wanted=False, busy=False)
    assert ground.rest.awake and not ground.trainer.ask()
    ground.pass_s(LINGER_S)
    ground.rest.settle(wanted=False, busy=False)
    assert ground.engine.asleep and not ground.turn.held
    assert ground.trainer.ask()
    # Nothing to do is no reason to ask.
    ground.rest.settle(wanted=False, busy=False)
    assert not ground.trainer.wanted()
    ground.rest.settle(wanted=True, busy=False)
    assert ground.engine.asleep and ground.rest.over()
    ground.trainer.give_back()
    ground.pass_s(1)
    ground.rest.settle(wanted=True, busy=False)
    assert ground.rest.awake and not ground.engine.asleep and not ground.rest.over()


def test_what_is_under_way_ends_in_its_turn(ground: Ground) -> None:
    for _ in range(5):
        ground.pass_s(LINGER_S)
        ground.rest.settle(wanted=False, busy=True)
        assert ground.rest.awake
    ground.rest.settle(wanted=False, busy=False)
    assert ground.rest.awake, "it has just ended"


def test_a_turn_that_others_wait_for_ends_though_there_is_more_to_do(ground: Ground) -> None:
    ground.pass_s(MOST_S)
    ground.rest.settle(wanted=True, busy=False)
    assert ground.rest.awake and not ground.rest.over(), "nobody waits"
    assert not ground.trainer.ask()
    ground.pass_s(1)
    assert ground.rest.over()
    ground.rest.settle(wanted=True, busy=True)
    assert ground.rest.awake, "what is under way may end"
    ground.rest.settle(wanted=True, busy=False)
    assert ground.engine.asleep
    ground.rest.settle(wanted=True, busy=False)
    assert ground.engine.asleep, "the trainer came first"
    ground.pass_s(1)
    assert ground.trainer.ask()


def test_engines_that_can_sleep_say_so() -> None:
    assert isinstance(ScriptedEngine(Script(problems=())), Sleeper)
    assert not isinstance(object(), Sleeper)


def test_a_turn_that_is_lost_while_the_bus_is_away_frees_the_card_when_nothing_is_under_way(tmp_path: Path) -> None:
    bench = StudentBench(tmp_path, lease_s=0.6, continuous=True, shares_card=True)
    until_s = time.monotonic() + WAIT_S
    try:
        assert bench.card is not None
        bench.engine.hold = True
        bench.broker.issue(JobKind.ROLLOUT, 1)
        while not bench.engine.calls:
            assert time.monotonic() < until_s
            bench.worker.turn()
        bench.server.down = True
        while not bench.card.lost:
            assert time.monotonic() < until_s
            bench.worker.turn()
        bench.worker.turn()
        assert not bench.engine.asleep, "what is under way may end"
        bench.engine.go.set()
        while not bench.engine.asleep:
            assert time.monotonic() < until_s
            bench.worker.turn()
        assert not bench.card.held
        bench.server.down = False
        trainer = CardTurn(MemoryBus(bench.server, lease_s=60), "trainer-a", SystemClock(), ttl_s=60)
        assert trainer.ask()
        trainer.give_back()
    finally:
        bench.close()


def test_an_engine_that_is_lost_as_its_turn_is_leaves_the_worker_at_work(tmp_path: Path) -> None:
    bench = StudentBench(tmp_path, lease_s=0.3, shares_card=True)
    until_s = time.monotonic() + WAIT_S
    tries: list[float] = []

    def away() -> None:
        tries.append(time.monotonic())
        raise EngineAwayError("no answer")

    try:
        bench.worker.turn()
        bench.engine.sleep = away  # type: ignore[method-assign]
        bench.server.down = True
        while len(tries) < 2:
            assert time.monotonic() < until_s
            bench.worker.turn()
        del bench.engine.sleep
        while not bench.engine.asleep:
            assert time.monotonic() < until_s
            bench.worker.turn()
    finally:
        bench.close()


def test_jobs_and_versions_wait_for_the_engine_s_turn(tmp_path: Path) -> None:
    bench = StudentBench(tmp_path, shares_card=True)
    try:
        bench.turn()
        trainer = CardTurn(MemoryBus(bench.server, lease_s=60), "trainer-a", SystemClock(), ttl_s=60)
        until_s = time.monotonic() + WAIT_S
        while not trainer.ask():
            assert time.monotonic() < until_s
            bench.turn()
        assert bench.engine.asleep
        publish_version(tmp_path, 1)
        bench.broker.serve("a@v1", "a@v0")
        job = bench.broker.issue(JobKind.ROLLOUT, 1, version="a@v1")
        assert [message for message in bench.turn(20) if isinstance(message, JobDone)] == []
        assert bench.engine.asleep and bench.board.not_ready() is None
        trainer.give_back()
        found: list[JobDone] = []
        while not found:
            assert time.monotonic() < until_s
            found = bench.done()
        assert (found[0].job_id, found[0].outcome, bench.engine.woken) == (job.id, "ok", 1)
        while not bench.engine.asleep:
            assert time.monotonic() < until_s
            bench.turn()
        assert trainer.wait(threading.Event())
        trainer.give_back()
    finally:
        bench.close()
