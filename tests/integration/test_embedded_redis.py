"""The process that holds a run's own Redis: any path will do, a server that is slow or refuses is left alone, one that
has ended is told of, none is left over, and none of another is ended."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from opcod.local.embedded_redis import answers, end_leftover
from tests.fakes.forked import Forked
from tests.fakes.small_disk import mounted
from tests.fakes.valkey import free_port
from tests.fakes.waiting import WAIT_S, wait_until

SILENT_S = 2.5
"""Longer than the second that a question to the server waits."""


@pytest.fixture
def port() -> int:
    return free_port()


def hold(port: int, data_dir: Path) -> Forked:
    arguments = ("--port", str(port), "--data-dir", str(data_dir))
    return Forked("opcod.local.embedded_redis", arguments, os.environ, Path(os.devnull))


@pytest.fixture
def holder(port: int, tmp_path: Path) -> Iterator[Forked]:
    process = hold(port, tmp_path)
    yield process
    process.terminate()
    process.wait(timeout=WAIT_S)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk", 8) as place:
        yield place


def server_of(port: int) -> psutil.Process:
    """The server's process, once it answers."""
    deadline = time.monotonic() + 20
    while True:
        try:
            with redis.Redis(port=port, retry=Retry(NoBackoff(), 0)) as client:
                return psutil.Process(int(client.info("server")["process_id"]))
        except redis.ConnectionError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_server_that_is_slow_to_answer_goes_on(holder: Forked, port: int) -> None:
    server = server_of(port)
    server.suspend()
    time.sleep(SILENT_S)
    server.resume()
    assert server_of(port).pid == server.pid
    assert holder.poll() is None


def test_a_server_that_has_ended_ends_its_holder_with_an_error(holder: Forked, port: int) -> None:
    os.kill(server_of(port).pid, signal.SIGKILL)
    assert holder.wait(timeout=WAIT_S) != 0


@pytest.mark.parametrize(
    "name",
    [
        "a blank",
        "#hash",
        "it's",
        'say "so"',
        "back\\slash",
        "Zürich 東京",
        "$HOME",
        "line\nbreak",
        "/".join(["x" * 60] * 6),
    ],
    ids=["blank", "hash", "quote", "double", "backslash", "unicode", "variable", "newline", "long"],
)
def test_any_path_will_do(port: int, tmp_path: Path, name: str) -> None:
    data_dir = tmp_path / name
    process = hold(port, data_dir)
    try:
        server_of(port)
        with redis.Redis(port=port) as client:
            client.set("key", "value")
        assert (data_dir / "appendonlydir").is_dir()
    finally:
        process.terminate()
    assert process.wait(timeout=WAIT_S) == 0


def _ended(data_dir: Path) -> bool:
    return servers_in(data_dir) == []


def servers_in(data_dir: Path) -> list[psutil.Process]:
    """Servers that work in a directory: those of one holder, whatever became of it."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.status() != psutil.STATUS_ZOMBIE and process.cwd() == str(data_dir):
                found.append(process)
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["term", "kill"])
def test_whenever_its_holder_ends_no_server_is_left(tmp_path: Path, number: signal.Signals) -> None:
    """Signals over the first tenth of a second of a server, from before there is one until it is up."""
    for after_ms in range(0, 105, 15):
        data_dir = tmp_path / str(after_ms)
        process = hold(free_port(), data_dir)
        wait_until((data_dir / "valkey.log").exists, "the server's log, which is opened just before it is started")
        time.sleep(after_ms / 1000)
        process.send_signal(number)
        process.wait(timeout=WAIT_S)
        wait_until(partial(_ended, data_dir), f"the end of the server, {after_ms} ms old")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["term", "kill"])
def test_a_holder_that_ends_before_it_begins_a_server_leaves_none(tmp_path: Path, number: signal.Signals) -> None:
    for after_ms in (1, 30, 100):
        process = hold(free_port(), tmp_path)
        time.sleep(after_ms / 1000)
        process.send_signal(number)
        process.wait(timeout=WAIT_S)
        wait_until(lambda: servers_in(tmp_path) == [], f"the end of what was begun in {after_ms} ms")


def test_it_ends_when_its_launcher_is_killed(port: int, tmp_path: Path) -> None:
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHES, str(port), str(tmp_path)], env=os.environ, stdout=subprocess.DEVNULL
    )
    server = server_of(port)
    launcher.kill()
    launcher.wait(timeout=WAIT_S)
    assert psutil.wait_procs([server], timeout=20)[1] == []


LAUNCHES = """
import sys, time
from pathlib import Path
from opcod.local.processes import ProcessSpec, launch
port, place = sys.argv[1:]
arguments = ("--port", port, "--data-dir", place)
launch(ProcessSpec("redis", "opcod.local.embedded_redis", Path(place) / "log", arguments=arguments))
time.sleep(600)
"""


def test_a_server_left_over_is_ended_and_one_of_another_directory_is_not(
    holder: Forked, port: int, tmp_path: Path
) -> None:
    server = server_of(port)
    other = tmp_path / "other"
    other.mkdir()
    end_leftover(port, other)
    end_leftover(port, tmp_path / "gone")
    assert server_of(port).pid == server.pid and holder.poll() is None
    end_leftover(port, tmp_path)
    assert psutil.wait_procs([server], timeout=20)[1] == []


def test_where_none_is_left_over_nothing_is_waited_for(port: int, tmp_path: Path) -> None:
    def seconds() -> float:
        began = time.monotonic()
        end_leftover(port, tmp_path)
        return time.monotonic() - began

    assert min(seconds() for _ in range(3)) < 1.0, "whatever the machine does at one of them"


def test_a_server_that_refuses_for_its_full_disk_is_no_silent_one(port: int, small_disk: Path) -> None:
    process = hold(port, small_disk)
    try:
        server_of(port)
        with redis.Redis(port=port) as client:
            with pytest.raises(redis.ResponseError, match="MISCONF"):
                for number in range(1000):
                    client.set(f"key{number}", b"x" * 100_000)
            with pytest.raises(redis.ResponseError, match="MISCONF"):
                client.ping()
        assert answers(port)
        assert process.poll() is None
    finally:
        process.terminate()
    assert process.wait(timeout=WAIT_S) == 0
