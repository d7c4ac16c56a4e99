"""What holds for every test: who runs beside whom, and that nobody leaves a process behind."""

import gc
import os
import sys
import uuid
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from hypothesis import settings

from tests.fakes.fork_server import fork_server
from tests.fakes.forked import end_forked
from tests.fakes.forking_python import forking_python

# No property has a limit of time: how long an example takes says how busy the machine is.
settings.register_profile("timeless", deadline=None)
settings.load_profile("timeless")

MARK = "OPCOD_TEST_SESSION"
"""A variable that the processes of a session inherit."""

GONE_WITHIN_S = 10.0


def pytest_configure(config: pytest.Config) -> None:
    """One fork server for all workers: to have imported torch takes ten seconds, and half a gigabyte."""
    if not hasattr(config, "workerinput"):
        serving = ExitStack()
        serving.enter_context(fork_server())
        config.add_cleanup(serving.close)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported stays: meanwhile no garbage is looked for, which would be a quarter of the time, and later it is
    looked at by no collection of what tests leave, and there are hundreds."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        # What tests leave is looked at every ten thousand objects, not every seven hundred: a twentieth of their time.
        gc.set_threshold(10_000, 20, 20)
        gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _no_process_is_left() -> Iterator[None]:
    """The last test of a session, or of a worker, fails if a process that the session started is still there."""
    mark = os.environ[MARK] = uuid.uuid4().hex
    yield
    forked = end_forked()
    assert not forked, "services of this session that nobody ended:\n" + "\n".join(forked)
    left = [process for process in psutil.process_iter() if _bears(process, mark)]
    psutil.wait_procs(left, timeout=GONE_WITHIN_S)
    told = [f"{process.pid}: {' '.join(process.cmdline())}" for process in left if _bears(process, mark)]
    assert not told, "processes of this session that nobody ended:\n" + "\n".join(told)


@pytest.fixture(scope="session")
def programs() -> Iterator[Path]:
    """The directory of `python` and `opcod` that are forked."""
    with forking_python() as directory:
        yield directory


@pytest.fixture
def forking(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is started by `sys.executable` is forked, and so is what that starts."""
    monkeypatch.setattr(sys, "executable", str(programs / "python"))


def _bears(process: psutil.Process, mark: str) -> bool:
    try:
        alive = process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE
        return alive and process.environ().get(MARK) == mark
    except psutil.Error:
        return False
