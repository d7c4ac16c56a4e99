"""A trainer whose ranks are on two nodes, each with a process of its own that starts them: here two on one machine."""

import os
import signal
from pathlib import Path

import psutil
import pytest
import redis

from shared.bus.keys import TRAINER
from shared.bus.redis import RedisBus
from tests.fakes.forked import Forked
from tests.fakes.valkey import ValkeyServer, free_port
from tests.fakes.waiting import WAIT_S, wait_until
from tests.integration.test_trainer_service import prepared
from tests.ranks.test_service import FULL, QUEUE, Trainer, send
from tests.unit.trainer.ground import RUN, STUDENT, seal_steps

pytestmark = pytest.mark.timeout(400)


class TwoNodes(Trainer):
    """The trainer's process on node 0, and the one on node 1."""

    def __init__(self, run_dir: Path, redis_url: str, python: Path) -> None:
        super().__init__(run_dir, redis_url, python)
        self._meet = {"OPCOD_NODES": "2", "OPCOD_RENDEZVOUS": f"127.0.0.1:{free_port()}"}
        self.second: Forked | None = None

    def start_second(self) -> Forked:
        told = os.environ | {
            "OPCOD_RUN": RUN,
            "OPCOD_RUN_DIR": str(self.run_dir),
            "OPCOD_CACHE_DIR": str(self.run_dir / "cache"),
            "OPCOD_REDIS_URL": self.redis_url,
            "OPCOD_STUDENT": STUDENT,
            "OMP_NUM_THREADS": "1",
            "OPCOD_NODE_RANK": "1",
            **self._meet,
        }
        log = self.run_dir / "trainer-1.log"
        self.second = Forked("services.trainer", (), told, log, executable=str(self._python))
        return self.second

    def start_first(self) -> Forked:
        return self.start(**self._meet)

    def stop(self) -> None:
        super().stop()
        if self.second is not None and self.second.poll() is None:
            self.second.terminate()
            self.second.wait(timeout=WAIT_S)


def ranks_of(process: Forked) -> list[psutil.Process]:
    """The ranks that a node's process has started: what ends one of these programs ends what is forked for it."""
    return [
        child for child in psutil.Process(process.pid).children(recursive=True) if "services.trainer" in child.cmdline()
    ]


def test_a_node_that_dies_takes_the_trainer_back_to_its_checkpoint_and_on(
    server: ValkeyServer, bus: RedisBus, tmp_path: Path, tiny_dir: Path, programs: Path
) -> None:
    python = programs / "python"
    alone = Trainer(prepared(tmp_path / "alone", tiny_dir, *FULL), server.connection_url, python)
    try:
        alone.start()
        send(bus, seal_steps(alone.run_dir, tiny_dir, 2)).read_until(2, WAIT_S)
    finally:
        alone.stop()
    with redis.Redis.from_url(server.connection_url) as client:
        client.flushall()

    nodes = TwoNodes(prepared(tmp_path / "two", tiny_dir, *FULL), server.connection_url, python)
    try:
        second = nodes.start_second()
        first = nodes.start_first()
        batches = seal_steps(nodes.run_dir, tiny_dir, 2)
        answers = send(bus, batches[:1])
        answers.read_until(1, WAIT_S)
        assert [len(ranks_of(process)) for process in (first, second)] == [1, 1]
        for pid in (second.pid, *(rank.pid for rank in ranks_of(second))):
            os.kill(pid, signal.SIGKILL)
        # Rank 0 misses it, and ends for whoever starts it to start it again.
        assert first.wait(timeout=WAIT_S) == 69
        nodes.start_second()
        nodes.start_first()
        bus.publish(QUEUE, batches[1])
        answers.read_until(2, WAIT_S)
        wait_until(lambda: bus.queue_depth(QUEUE, TRAINER) == (0, 0), "every batch acknowledged")
    finally:
        nodes.stop()
    # As many ranks, wherever they are.
    assert nodes.checksums(2) == alone.checksums(2)
