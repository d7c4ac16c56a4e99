"""The processes of a server end with it, and with its student, however that ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from services.student.engines.vllm.guard import guarded
from services.student.engines.vllm.process import ServerProcess
from tests.fakes.waiting import WAIT_S

FAMILY = """
import subprocess, sys, time
from pathlib import Path
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("started", flush=True)
Path(sys.argv[1]).write_text(str(child.pid))
time.sleep(600)
"""


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def grandchild(file: Path) -> int:
    until(lambda: file.exists() and file.read_text() != "")
    return int(file.read_text())


def test_ending_it_ends_what_it_made(tmp_path: Path) -> None:
    file, scratch = tmp_path / "pid", tmp_path / "scratch"
    scratch.mkdir()
    command = guarded([sys.executable, "-c", FAMILY, str(file)], os.getpid())
    process = ServerProcess(command, os.environ, tmp_path / "log", scratch)
    child = grandchild(file)
    assert process.exit_code is None and scratch.is_dir()
    process.end()
    assert not scratch.exists()
    assert process.exit_code is not None
    until(lambda: gone(child))
    assert (tmp_path / "log").read_text() == "started\n"


def test_it_ends_when_its_student_is_killed(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    student = (
        "import os, sys, time\nfrom pathlib import Path\n"
        "from services.student.engines.vllm.guard import guarded\n"
        "from services.student.engines.vllm.process import ServerProcess\n"
        "ServerProcess(guarded(sys.argv[1:], os.getpid()), os.environ, Path(sys.argv[-1] + '.log'))\ntime.sleep(600)\n"
    )
    command = [sys.executable, "-c", student, sys.executable, "-c", FAMILY, str(file)]
    running = subprocess.Popen(command)
    child = grandchild(file)
    running.send_signal(signal.SIGKILL)
    running.wait(WAIT_S)
    until(lambda: gone(child))


def test_it_ends_when_its_student_was_gone_before_it_began(tmp_path: Path) -> None:
    """Its parent is another process by then."""
    student = subprocess.Popen([sys.executable, "-c", ""])
    student.wait(WAIT_S)
    command = guarded([sys.executable, "-c", FAMILY, str(tmp_path / "pid")], student.pid)
    process = ServerProcess(command, os.environ, tmp_path / "log")
    until(lambda: process.exit_code is not None)
    assert process.exit_code == -signal.SIGKILL
    process.end()


def test_its_exit_code_is_that_of_the_server(tmp_path: Path) -> None:
    command = guarded([sys.executable, "-c", "raise SystemExit(7)"], os.getpid())
    process = ServerProcess(command, os.environ, tmp_path / "log")
    until(lambda: process.exit_code is not None)
    assert process.exit_code == 7
    process.end()
