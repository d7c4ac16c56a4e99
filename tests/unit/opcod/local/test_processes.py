"""Supervising: what ends is started again, what does not stay up is given up with its log, only ours is stopped."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from opcod.local.processes import (
    MAX_RESTARTS,
    ProcessFailedError,
    ProcessSpec,
    Supervisor,
    launch,
    log_tail,
    require_success,
    until_ended,
)
from shared.errors import ConfigError, OpcodError, StoppedError
from tests.fakes.waiting import WAIT_S

PAUSE_S = 0.1


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    one = Supervisor(first_pause_s=PAUSE_S)
    yield one
    one.stop(grace_s=0.1)


def spec(tmp_path: Path, code: str, **environment: str) -> ProcessSpec:
    """A process that runs `code`."""
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "played.py").write_text(code)
    return ProcessSpec(
        "played", "played", tmp_path / "logs" / "played.log", {"PYTHONPATH": str(tmp_path), **environment}
    )


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


SLEEPS = "import time; print('up', flush=True); time.sleep(60)"


def test_a_process_that_was_killed_is_started_again(tmp_path: Path, supervisor: Supervisor) -> None:
    supervisor.start(spec(tmp_path, SLEEPS))
    first = supervisor.pids()["played"]
    assert supervisor.check() == []
    os.kill(first, 9)
    restarted: list[str] = []

    def checked() -> bool:
        restarted.extend(supervisor.check())
        return bool(restarted)

    until(checked)
    assert restarted == ["played"]
    assert supervisor.pids()["played"] != first


def test_one_that_ends_again_and_again_is_given_up_with_the_end_of_its_log(
    tmp_path: Path, supervisor: Supervisor
) -> None:
    supervisor.start(spec(tmp_path, "print('the disk is full'); raise SystemExit(74)"))
    restarts: list[str] = []
    began = time.monotonic()
    with pytest.raises(ProcessFailedError) as caught:
        until(lambda: restarts.extend(supervisor.check()))
    assert len(restarts) == MAX_RESTARTS
    assert time.monotonic() - began > PAUSE_S * (1 + 2 + 4 + 8), "the pauses before all but the first restart"
    assert "played ended with exit code 74" in str(caught.value)
    assert "the disk is full" in str(caught.value)


def test_one_that_the_others_do_without_is_given_up_and_they_go_on(tmp_path: Path, supervisor: Supervisor) -> None:
    supervisor.start(spec(tmp_path, SLEEPS))
    pids = supervisor.pids()
    ends = replace(spec(tmp_path / "its", "raise SystemExit(2)"), name="inspector", needed=False)
    supervisor.start(ends)
    until(lambda: supervisor.check() or supervisor.given_up)
    assert "inspector ended with exit code 2" in str(supervisor.given_up["inspector"])
    assert (supervisor.check(), supervisor.pids()) == ([], pids)


def test_a_wrong_setting_is_not_tried_again(tmp_path: Path, supervisor: Supervisor) -> None:
    supervisor.start(spec(tmp_path, "raise SystemExit(2)"))
    with pytest.raises(ProcessFailedError, match="exit code 2"):
        until(supervisor.check)


def test_a_process_gets_its_environment_and_its_launchers_id(tmp_path: Path, supervisor: Supervisor) -> None:
    code = (
        "import os; print(os.environ['WORD'], os.environ['OPCOD_PARENT_PID'], flush=True); import time; time.sleep(60)"
    )
    one = spec(tmp_path, code, WORD="hello")
    supervisor.start(one)
    until(lambda: one.log_file.read_text())
    assert one.log_file.read_text().split() == ["hello", str(os.getpid())]


def test_a_process_imports_nothing_of_the_directory_that_it_is_started_in(
    tmp_path: Path, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "random.py").write_text("raise SystemExit('of the user')")
    monkeypatch.chdir(tmp_path / "here")
    one = spec(tmp_path, "import random; print(random.__file__, flush=True); import time; time.sleep(60)")
    supervisor.start(one)
    until(lambda: one.log_file.exists() and one.log_file.read_text())
    assert one.log_file.read_text().endswith("random.py\n")
    assert str(tmp_path) not in one.log_file.read_text()


def test_stopping_ends_ours_and_nobody_elses(tmp_path: Path, supervisor: Supervisor) -> None:
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        supervisor.start(spec(tmp_path, SLEEPS))
        pid = supervisor.pids()["played"]
        supervisor.stop()
        assert supervisor.pids() == {}
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_one_that_ignores_sigterm_is_killed_after_the_grace(tmp_path: Path, supervisor: Supervisor) -> None:
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEPS
    one = spec(tmp_path, stubborn)
    supervisor.start(one)
    until(lambda: one.log_file.read_text())
    pid = supervisor.pids()["played"]
    began = time.monotonic()
    supervisor.stop(grace_s=0.3)
    assert time.monotonic() - began < 5
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_the_tail_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    assert log_tail(log) == "(no log)"
    log.write_bytes(b"\n".join(b"line %d \xff" % n for n in range(50)))
    assert log_tail(log, lines=2).splitlines() == ["line 48 \ufffd", "line 49 \ufffd"]


@pytest.mark.parametrize(
    ("timeout_s", "stopped", "error"), [(WAIT_S, True, StoppedError), (0.0, False, OpcodError)], ids=["asked", "late"]
)
def test_work_that_is_not_waited_for_any_longer_is_stopped(
    tmp_path: Path, timeout_s: float, stopped: bool, error: type[OpcodError]
) -> None:
    process = launch(spec(tmp_path, SLEEPS))
    with pytest.raises(error, match="sleeping"):
        until_ended([process], "sleeping", timeout_s=timeout_s, report=lambda: None, stopped=lambda: stopped)
    assert process.poll() is not None


def test_work_that_goes_on_is_waited_for_however_long_it_takes(tmp_path: Path) -> None:
    process = launch(spec(tmp_path, "import time; time.sleep(0.5)"))
    steps = count()
    until_ended(
        [process],
        "counting",
        timeout_s=0.0,
        report=lambda: None,
        stopped=lambda: False,
        progress=lambda: next(steps),
    )
    assert process.returncode == 0 and next(steps) > 2


@pytest.mark.parametrize(("code", "error"), [(2, ConfigError), (1, OpcodError)])
def test_work_that_failed_says_so_with_the_end_of_its_log(tmp_path: Path, code: int, error: type[OpcodError]) -> None:
    one = spec(tmp_path, f"print('no such weights'); raise SystemExit({code})")
    process = launch(one)
    until_ended([process], "answering", timeout_s=WAIT_S, report=lambda: None, stopped=lambda: False)
    with pytest.raises(error, match=r"answering ended with exit code \d:\nno such weights") as caught:
        require_success("answering", process.returncode, one.log_file)
    assert caught.value.exit_code == code


def test_work_that_the_same_ctrl_c_ended_was_stopped_and_did_not_fail(tmp_path: Path) -> None:
    process = launch(spec(tmp_path, "raise SystemExit(1)"))
    until(lambda: process.poll() is not None)
    with pytest.raises(StoppedError):
        until_ended([process], "answering", timeout_s=WAIT_S, report=lambda: None, stopped=lambda: True)
