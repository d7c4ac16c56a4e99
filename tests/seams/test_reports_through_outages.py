"""Redis goes away between two reports that the broker took at once: all of them are handled soon after it is back.

The broker's runner on a real server, which is killed and started again on its file, or stands still and goes on.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from shared.bus.keys import BROKER, RESULTS
from shared.bus.port import Commit
from shared.bus.redis import RedisBus
from shared.contracts.run import RunState, Status
from tests.fakes.broker import RUN, BrokerBench
from tests.fakes.threads import in_thread
from tests.fakes.valkey import ValkeyServer
from tests.fakes.waiting import wait_until

DEADLINE_S = 2.0
"""Of calls, and so of their sockets: who waits so long for a server that is up has a machine that stands still."""
BACK_WITHIN_S = 30.0
"""F7 promises six; a message that stayed marked as held would wait for its lease of a minute."""

pytestmark = pytest.mark.timeout(120)


class BusThatLosesItsServer(RedisBus):
    """Before the commit of the third report of a take, the server goes away."""

    def __init__(self, url: str, go_away: Callable[[], None]) -> None:
        super().__init__(url, RUN, deadline_s=DEADLINE_S)
        self.armed = False
        self._go_away = go_away
        self._commits = 0

    def commit(self, commit: Commit) -> None:
        if self.armed and commit.ack is not None:
            self._commits += 1
            if self._commits == 3:
                self._go_away()
        super().commit(commit)


class Server:
    """A server that goes away: `killed` and started again on its file, or made to stand still."""

    def __init__(self, folder: Path, killed: bool) -> None:
        self._folder = folder
        self._killed = killed
        self._running = self._start(None)
        self.url = self._running.connection_url
        with RedisBus(self.url, RUN).link.client as client:
            self._pid = int(client.info("server")["process_id"])

    def _start(self, port: int | None) -> ValkeyServer:
        server = ValkeyServer(port=port, data_dir=self._folder, persist=True, appendonly="yes", appendfsync="always")
        server.start()
        return server

    def go_away(self) -> None:
        os.kill(self._pid, signal.SIGKILL if self._killed else signal.SIGSTOP)
        if self._killed:
            with suppress(psutil.NoSuchProcess):
                psutil.Process(self._pid).wait(10)

    def come_back(self) -> None:
        if self._killed:
            self._running = self._start(self._running.port)
        else:
            os.kill(self._pid, signal.SIGCONT)

    def stop(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGCONT)
        self._running.stop()


@pytest.fixture(params=[True, False], ids=["killed", "standing still"])
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    (tmp_path / "valkey").mkdir()
    server = Server(tmp_path / "valkey", request.param)
    yield server
    server.stop()


def is_training(state: RunState) -> bool:
    return state.status is Status.TRAINING


def test_reports_behind_the_one_that_redis_failed_at_are_handled_when_it_is_back(
    tmp_path: Path, server: Server
) -> None:
    opened: list[BusThatLosesItsServer] = []

    def open_bus() -> RedisBus:
        opened.append(BusThatLosesItsServer(server.url, server.go_away))
        return opened[-1]

    (tmp_path / "run").mkdir()
    bench = BrokerBench(tmp_path / "run", ("feedback.revise_share=0.0",), open_bus=open_bus)
    bench.run(is_training)
    bench.work()
    assert bench.workers.queue_depth(RESULTS, BROKER)[0] > 3, "one take hands out several reports"

    opened[-1].armed = True
    with in_thread(lambda stopping: bench.runner.loop(stopping, threading.Event())):
        wait_until(lambda: bench.runner.problem is not None, "the loss")
        server.come_back()
        back_s = time.monotonic()
        handled = "the reports behind it"
        wait_until(lambda: bench.workers.queue_depth(RESULTS, BROKER) == (0, 0), handled, deadline_s=BACK_WITHIN_S)
        wait_until(lambda: bench.runner.problem is None, "the next turn", deadline_s=BACK_WITHIN_S)
        assert time.monotonic() - back_s < BACK_WITHIN_S
    bench.finish()
    assert bench.state.version == {"a": "a@v2", "b": "b@v2"}
    assert [trainer.applied for trainer in bench.trainers.values()] == [[1, 2], [1, 2]]
    assert {name: tally.lost_feedback for name, tally in bench.state.tallies.items()} == {"a": {}, "b": {}}
    for bus in opened:
        bus.close()
