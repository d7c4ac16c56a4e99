"""A broker whose Redis or disk is away for a while: nothing of what it had in hand is lost."""

import shutil
import threading
from pathlib import Path

import pytest

from shared.bus.keys import BROKER, RESULTS
from shared.bus.port import Commit
from shared.contracts.acting import Control
from shared.contracts.run import STATE_FILE, RunState
from shared.errors import UnavailableError
from tests.fakes.broker import THREE, BrokerBench
from tests.fakes.bus.memory import MemoryBus
from tests.fakes.bus.memory_server import MemoryServer
from tests.fakes.threads import in_thread
from tests.fakes.waiting import wait_until
from tests.fakes.whole_runs import OFF, assert_whole, is_training


@pytest.fixture(params=[(), THREE], ids=["two", "three"])
def bench(run_dir: Path, request: pytest.FixtureRequest) -> BrokerBench:
    return BrokerBench(run_dir, [*OFF, *request.param])


def test_a_redis_that_does_not_answer_is_waited_for(bench: BrokerBench) -> None:
    bench.run(is_training)
    bench.server.down = True
    with in_thread(lambda stopping: bench.runner.loop(stopping, threading.Event())):
        wait_until(lambda: bench.runner.problem is not None, "the loss")
        assert "down" in (bench.runner.problem or "")
        bench.server.down = False
    bench.finish()
    assert bench.runner.problem is None
    assert_whole(bench)


def test_a_disk_that_refuses_is_waited_for(bench: BrokerBench) -> None:
    """A directory in the place of state.json refuses it, as a full disk would; the run goes on when it is gone."""
    bench.run(is_training)
    state_file = bench.run_dir / STATE_FILE
    state_file.unlink()
    (state_file / "in the way").mkdir(parents=True)
    MemoryBus(bench.server).publish(RESULTS, Control(id="1", action="pause"))
    with in_thread(lambda stopping: bench.runner.loop(stopping, threading.Event())):
        wait_until(lambda: bench.runner.problem is not None, "the refusal")
        assert "cannot write" in (bench.runner.problem or "")
        shutil.rmtree(state_file)
        wait_until(lambda: bench.runner.problem is None, "the next turn")
    saved = RunState.model_validate_json(state_file.read_bytes())
    assert saved == bench.state and saved.paused is not None


class AwayAtCommit(MemoryBus):
    """A bus whose server goes away at one commit, before or after it is stored; then it is up again."""

    def __init__(self, server: MemoryServer, *, stored: bool) -> None:
        super().__init__(server)
        self.countdown = -1
        self._stored = stored

    def commit(self, commit: Commit) -> None:
        self.countdown -= 1
        if self.countdown == 0:
            if self._stored:
                super().commit(commit)
            raise UnavailableError("no answer")
        super().commit(commit)


@pytest.mark.parametrize("stored", [False, True])
def test_reports_of_a_take_that_the_bus_failed_in_are_handled_when_it_is_back(run_dir: Path, stored: bool) -> None:
    """The one whose commit got no answer, which may be stored, and those behind it."""
    server = MemoryServer()
    opened: list[AwayAtCommit] = []

    def open_bus() -> MemoryBus:
        opened.append(AwayAtCommit(server, stored=stored))
        return opened[-1]

    bench = BrokerBench(run_dir, OFF, server=server, open_bus=open_bus)
    bench.run(is_training)
    assert bench.work() > 3 and bench.workers.queue_depth(RESULTS, BROKER)[0] > 3
    opened[-1].countdown = 2
    bench.turn()
    assert bench.runner.problem is not None
    bench.turn()
    assert bench.runner.problem is None
    assert bench.workers.queue_depth(RESULTS, BROKER) == (0, 0)
    bench.finish()
    assert_whole(bench)


def test_f93_what_a_killed_broker_had_still_to_drop_is_dropped_by_the_next(run_dir: Path) -> None:
    """Killed after the commit that ends the first evaluations."""
    server = MemoryServer()

    class KilledAtDrop(MemoryBus):
        def drop_payloads(self, key: str, fence: int) -> None:  # noqa: ARG002
            raise KeyboardInterrupt(key)

    bench = BrokerBench(run_dir, OFF, server=server, open_bus=lambda: KilledAtDrop(server))
    with pytest.raises(KeyboardInterrupt):
        bench.finish()
    ended = {key for key in server.payloads if key.startswith(("res:a:r", "res:b:r"))}
    bench.open_bus = lambda: MemoryBus(server)
    bench.start()
    bench.turn()
    assert ended and not ended & set(server.payloads)
    bench.finish()
    assert server.payloads == {}
    assert_whole(bench)


def test_what_only_waits_is_asked_of_the_state_once(bench: BrokerBench) -> None:
    """A turn in which nothing happens reads no state: it may have hundreds of kilobytes."""
    reads: list[str | None] = []

    class Counting(MemoryBus):
        def load_state(self) -> str | None:
            reads.append(super().load_state())
            return reads[-1]

    bench.open_bus = lambda: Counting(bench.server)
    bench.start()
    bench.settle()
    assert len(reads) == 1, "when the run is taken up"
