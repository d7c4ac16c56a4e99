"""What a node does that joins a run, whose services here are processes that only sleep."""

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI

from opcod.local.joining import WATCH_S, join_run
from opcod.local.nodes import MEETING_FILE, Meeting, read_address
from opcod.local.processes import LiveProcess, ProcessSpec
from opcod.local.services import POLL_S
from opcod.prepare.run_directory import create_run
from shared.config.loading import load_settings
from shared.config.settings import Paths
from shared.errors import ConfigError, OpcodError, StoppedError, UnavailableError
from tests.fakes.listening import listening
from tests.fakes.valkey import ValkeyServer
from tests.fakes.waiting import WAIT_S, wait_until

HERE = ["student-b", "trainer-b"]
ADDRESS = "127.0.0.2"
LOST_S = 2.0


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a server that is no launcher's: it answers whoever is up."""
    server = ValkeyServer(data_dir=tmp_path_factory.mktemp("valkey"))
    server.start()
    yield server.connection_url
    server.stop()


@pytest.fixture(scope="module")
def ready_url() -> Iterator[str]:
    app = FastAPI()
    app.get("/readyz")(lambda: {})
    with listening(app) as url:
        yield url


class Node:
    """Node 1 of two, in a thread. ready: whether its services come up."""

    def __init__(self, runs_dir: Path, redis_url: str, ready_url: str, *, ready: bool = True) -> None:
        self.paths = Paths(runs_dir=runs_dir, run="pair", cache_dir=runs_dir / "cache")
        if not self.paths.run_dir.exists():
            create_run(self.paths, load_settings(preset="smoke", overrides=["resources.nodes=2"], environ={}))
        self.started: list[ProcessSpec] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        self.error: OpcodError | None = None
        self.wanted = True
        self.said: list[str] = []
        self._redis_url = redis_url
        self._ready_url = ready_url if ready else None
        self._thread: threading.Thread | None = None

    def meeting(self, number: int, password_file: Path | None = None) -> Meeting:
        """Node 0 begins one."""
        begun = Meeting(
            id=f"meeting-{number}",
            address="127.0.0.1",
            port=29400,
            redis_url=self._redis_url,
            redis_password_file=password_file,
            key_file=self.paths.run_dir / f"key-{number}",
        )
        begun.save(self.paths.run_dir)
        return begun

    def end_run(self) -> None:
        (self.paths.run_dir / MEETING_FILE).unlink()

    def join(self, node: int = 1, stopped: Callable[[], bool] | None = None) -> None:
        wanted = stopped or (lambda: not self.wanted)
        join_run(self.paths, node, ADDRESS, self.said.append, wanted, self._start, lost_s=LOST_S)

    def begin(self) -> None:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def wait(self) -> None:
        assert self._thread is not None
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()

    def is_up(self, meeting: Meeting) -> bool:
        told = [spec.name for spec in self.started if spec.environment["OPCOD_KEY_FILE"] == str(meeting.key_file)]
        said = "".join(self.said[-1:])
        return sorted(told) == HERE and self.comes_to(meeting) and said.startswith("node 1 of run pair")

    def comes_to(self, meeting: Meeting) -> bool:
        return read_address(self.paths.run_dir, 1, meeting) == ADDRESS

    def _run(self) -> None:
        try:
            self.join()
        except OpcodError as error:
            self.error = error

    def _start(self, spec: ProcessSpec) -> LiveProcess:
        self.started.append(spec)
        if self._ready_url is not None:
            spec.log_file.parent.mkdir(exist_ok=True)
            Path(spec.environment["OPCOD_URL_FILE"]).write_text(self._ready_url)
        self.processes.append(subprocess.Popen(["sleep", "600"]))
        return self.processes[-1]


@pytest.fixture
def node(tmp_path: Path, redis_url: str, ready_url: str) -> Node:
    return Node(tmp_path, redis_url, ready_url)


def test_a_node_does_its_share_until_node_0_ends_the_run(node: Node, tmp_path: Path) -> None:
    node.begin()
    wait_until(lambda: len(node.said) == 1, "node 1 to wait")
    assert "no meeting in" in node.said[0]
    node.meeting(0, password_file=tmp_path / "removed")
    time.sleep(5 * POLL_S)
    assert not node.started
    first = node.meeting(1)
    wait_until(lambda: node.is_up(first), "the services")
    node.end_run()
    node.wait()
    assert node.error is None
    assert not node.comes_to(first)
    assert [process.poll() is None for process in node.processes] == [False, False]


def test_a_meeting_that_another_one_replaces_has_not_ended_the_run(node: Node) -> None:
    """The first is what a launcher left that was killed, whose Redis is up all the same."""
    first = node.meeting(1)
    node.begin()
    wait_until(lambda: node.is_up(first), "the services")
    second = node.meeting(2)
    wait_until(lambda: node.is_up(second), "the services again")
    assert not node.comes_to(first)
    assert [process.poll() is None for process in node.processes] == [False, False, True, True]
    node.end_run()
    node.wait()
    assert node.error is None


def test_a_meeting_that_cannot_be_read_for_a_moment_has_not_ended_the_run(node: Node) -> None:
    """As where NFS does not answer."""
    first = node.meeting(1)
    node.begin()
    wait_until(lambda: node.is_up(first), "the services")
    file = node.paths.run_dir / MEETING_FILE
    told = file.read_bytes()
    file.write_text("{")
    time.sleep(2 * WATCH_S + 5 * POLL_S)
    assert node.is_up(first) and all(process.poll() is None for process in node.processes)
    file.write_bytes(told)
    node.end_run()
    node.wait()
    assert node.error is None


def test_a_meeting_is_left_for_another_one_before_its_services_are_up(
    tmp_path: Path, redis_url: str, ready_url: str
) -> None:
    node = Node(tmp_path, redis_url, ready_url, ready=False)
    first = node.meeting(1)
    node.begin()
    wait_until(lambda: bool(node.started) and node.comes_to(first), "node 1 to come")
    second = node.meeting(2)
    wait_until(lambda: node.comes_to(second), "node 1 to come again")
    node.end_run()
    node.wait()
    assert node.error is None


def test_a_node_ends_once_node_0_is_gone_and_says_so(tmp_path: Path, ready_url: str) -> None:
    """An embedded Redis ends with its launcher, which has no time left to take its meeting back."""
    server = ValkeyServer(data_dir=tmp_path)
    server.start()
    node = Node(tmp_path, server.connection_url, ready_url)
    first = node.meeting(1)
    node.begin()
    wait_until(lambda: node.is_up(first), "the services")
    server.stop()
    node.wait()
    assert isinstance(node.error, UnavailableError)
    assert str(node.error) == "the Redis of node 0 has not answered for 2 s; this node ends, too"
    assert not node.comes_to(first)
    assert [process.poll() is None for process in node.processes] == [False, False]


def test_a_node_that_is_told_to_end_ends_its_services_and_says_so(node: Node) -> None:
    first = node.meeting(1)
    node.begin()
    wait_until(lambda: node.is_up(first), "the services")
    node.wanted = False
    node.wait()
    assert isinstance(node.error, StoppedError)
    assert not node.comes_to(first)


def test_a_node_that_is_told_to_end_as_node_0_is_ends_well(node: Node) -> None:
    first = node.meeting(1)

    def stopped() -> bool:
        if node.said and node.is_up(first):
            node.end_run()
            return True
        return False

    node.join(stopped=stopped)
    assert not node.comes_to(first)


def test_a_second_process_of_one_node_is_refused_and_spoils_nothing(
    tmp_path: Path, redis_url: str, ready_url: str, node: Node
) -> None:
    first = node.meeting(1)
    node.begin()
    wait_until(lambda: node.is_up(first), "the services")
    second = Node(tmp_path, redis_url, ready_url)
    with pytest.raises(ConfigError, match="node 1 of pair has joined already in another process"):
        second.join()
    assert not second.started
    assert node.is_up(first)
    node.end_run()
    node.wait()
    assert node.error is None


@pytest.mark.parametrize("number", [0, 2])
def test_a_node_that_the_run_does_not_have_is_refused(node: Node, number: int) -> None:
    node.meeting(1)
    with pytest.raises(
        ConfigError, match=f"--node: expected 1 to 1, as resources.nodes of run pair says, got {number}"
    ):
        node.join(number)
    assert not node.started
