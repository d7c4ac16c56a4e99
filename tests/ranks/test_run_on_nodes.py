"""A run on three nodes, which here are addresses of one machine: node 0 is this process, two others join it."""

import os
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from opcod.local.nodes import MEETING_FILE, address_file, read_address, read_meeting
from shared.contracts.run import Status
from tests.fakes.deployment import CONTEXT, STEPS, ScriptedDeployment, assert_applied_once, assert_nothing_left
from tests.fakes.forked import fork
from tests.unit.modeling.tiny_model import write_tiny_model

WAIT_S = 400.0
PLACES = "student-a = [0], student-b = [1], trainer-a = [1, 2], trainer-b = [0]"
SETTINGS = ("run.weights=full", "run.schedule=sequential", "trainer.ranks=2", "resources.nodes=3")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class Nodes:
    """`opcod join` on nodes 1 and 2."""

    def __init__(self, runs_dir: Path, run: str, opcod: Path) -> None:
        self._opcod = opcod
        self._runs_dir = runs_dir
        self._run = run
        self._started: dict[int, subprocess.Popen[bytes]] = {}

    def join(self, node: int) -> None:
        places = ["--runs-dir", str(self._runs_dir), "--cache-dir", str(self._runs_dir)]
        told = os.environ | {"OPCOD_NODE_RANK": str(node), "OPCOD_ADDRESS": f"127.0.0.{node + 1}"}
        with (self._runs_dir / f"node-{node}.log").open("ab") as log:
            self._started[node] = subprocess.Popen(
                [str(self._opcod), "join", self._run, *places], env=told, stdout=log, stderr=log
            )

    def kill(self, node: int) -> None:
        self._started[node].send_signal(signal.SIGKILL)
        self._started[node].wait(WAIT_S)

    def codes(self) -> list[int]:
        return [process.wait(WAIT_S) for process in self._started.values()]

    def end(self) -> None:
        for process in self._started.values():
            if process.poll() is None:
                process.terminate()
                process.wait(WAIT_S)


@pytest.fixture
def nodes(tmp_path: Path, programs: Path) -> Iterator[Nodes]:
    started = Nodes(tmp_path, "nodes", programs / "opcod")
    yield started
    started.end()


def test_a_run_on_three_nodes_goes_on_when_one_is_killed_and_joins_again(
    tmp_path: Path, nodes: Nodes, programs: Path
) -> None:
    """With ranks of one trainer on two of them, and those of the other on one."""
    model = write_tiny_model(tmp_path / "tiny", context=CONTEXT)
    nodes.join(1)
    nodes.join(2)
    running = ScriptedDeployment(
        tmp_path,
        "nodes",
        model,
        *SETTINGS,
        f"resources.placement={{ {PLACES} }}",
        deadline_s=WAIT_S,
        start_process=partial(fork, python=str(programs / "python")),
        rendezvous="127.0.0.1",
    )
    run_dir = running.paths.run_dir
    try:
        assert set(running.launcher.pids()) == {"redis", "broker", "inspector", "student-a", "trainer-b"}
        meeting = read_meeting(run_dir)
        assert meeting is not None
        assert [read_address(run_dir, node, meeting) for node in (1, 2)] == ["127.0.0.2", "127.0.0.3"]
        running.until_training()
        nodes.kill(1)
        nodes.join(1)
        state = running.finish()
        assert state.status is Status.DONE, f"{state.status}, paused: {state.paused}, failed: {state.failed}"
        assert state.steps == {"a": STEPS, "b": STEPS}
        assert_nothing_left(running.bus)
    finally:
        running.close()
    # Told by node 0, all others have ended by themselves.
    assert nodes.codes() == [0, 0]
    assert not any(
        file.exists() for file in (run_dir / MEETING_FILE, *(address_file(run_dir, node) for node in (1, 2)))
    )
    for student in ("a", "b"):
        assert_applied_once(run_dir, student, STEPS)
