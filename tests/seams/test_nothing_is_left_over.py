"""Who starts a process ends it: whenever the launcher is told to stop, or is killed, nothing of its run is left."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from shared.config.loading import to_toml
from tests.fakes.deployment import scripted_settings
from tests.fakes.waiting import WAIT_S, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "all my runs"


@pytest.fixture
def launcher(tmp_path: Path, runs: Path) -> Iterator[subprocess.Popen[bytes]]:
    settings = tmp_path / "settings.toml"
    settings.write_text(to_toml(scripted_settings()), encoding="utf-8")
    command = [sys.executable, "-m", "opcod.main", "up", "--config", str(settings)]
    command += ["--runs-dir", str(runs), "--cache-dir", str(tmp_path / "cache")]
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})
    yield process
    if process.poll() is None:
        process.kill()
    process.wait()


def processes_of(runs: Path, launcher: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """All that know of the runs, by what they were told or where they work, but for their launcher."""
    # To read what a process was told costs more than to ask its age, and what is older than this test is none of it.
    found, since = [], psutil.Process().create_time()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.create_time() < since:
                continue
            told = [*process.cmdline(), *process.environ().values(), process.cwd()]
            if process.pid != launcher.pid and any(word.startswith(str(runs)) for word in told):
                found.append(process)
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["term", "kill"])
@pytest.mark.parametrize("begun", [1, 2, 3, 6], ids="after {} began".format)
def test_whenever_it_ends(runs: Path, launcher: subprocess.Popen[bytes], begun: int, number: signal.Signals) -> None:
    """begun: holder and server of Redis, then the services; six are all of them."""
    wait_until(lambda: len(processes_of(runs, launcher)) >= begun, f"{begun} processes", pause_s=0.02)
    launcher.send_signal(number)
    launcher.wait(timeout=WAIT_S)
    wait_until(lambda: processes_of(runs, launcher) == [], "the end of all of them")
