"""The process that holds a run's own Redis: a server that is slow is left alone, one that has ended is told of."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis

SILENT_S = 2.5
"""Longer than the second that a question to the server waits."""


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def holder(port: int, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "opcod.embedded_redis", "--port", str(port), "--data-dir", str(tmp_path)]
    process = subprocess.Popen(command)
    yield process
    process.terminate()
    process.wait(timeout=20)


def server_of(port: int) -> psutil.Process:
    """The server's process, once it answers."""
    deadline = time.monotonic() + 20
    while True:
        try:
            with redis.Redis(port=port) as client:
                return psutil.Process(int(client.info("server")["process_id"]))
        except redis.ConnectionError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_server_that_is_slow_to_answer_goes_on(holder: subprocess.Popen[bytes], port: int) -> None:
    server = server_of(port)
    server.suspend()
    time.sleep(SILENT_S)
    server.resume()
    assert server_of(port).pid == server.pid
    assert holder.poll() is None


def test_a_server_that_has_ended_ends_its_holder_with_an_error(holder: subprocess.Popen[bytes], port: int) -> None:
    os.kill(server_of(port).pid, signal.SIGKILL)
    assert holder.wait(timeout=20) != 0
