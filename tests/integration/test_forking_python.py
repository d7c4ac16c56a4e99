"""The Python that tests put in place of the real one is one to whoever starts it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from shared.parents import PARENT_VARIABLE
from tests.fakes.fork_server import ROOT
from tests.fakes.waiting import WAIT_S, wait_until

TELLING = """
import json, os, sys
print(json.dumps([sys.argv[1:], os.environ["TOLD"], os.getcwd(), sys.stdin.read(), sys.executable]))
print("and that", file=sys.stderr)
sys.exit(7)
"""
STARTING = "import subprocess, sys; print(sys.executable, flush=True); subprocess.run([sys.executable, {}])"
COUNTING = "from prometheus_client import REGISTRY; print(*(metric.name for metric in REGISTRY.collect()))"
SERVICES = ("opcod_broker", "opcod_inspector", "opcod_student", "opcod_trainer")
ASKING = """
import os, sys, time
from pathlib import Path
from tests.fakes.forked import Forked
print(Forked("waiting", (), os.environ, Path("log"), Path(sys.argv[1])).pid, flush=True)
time.sleep(600)
"""
WAITING = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"


@pytest.fixture
def python(programs: Path) -> str:
    return str(programs / "python")


@pytest.mark.parametrize("arguments", [[], ["-x", "a b", "東京"]])
def test_it_passes_on_what_a_process_is_told_and_tells(python: str, tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "telling.py").write_text(TELLING)
    done = subprocess.run(
        [python, "-m", "telling", *arguments],
        env=os.environ | {"TOLD": "schön"},
        cwd=tmp_path,
        input="in",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 7, done.stderr
    assert json.loads(done.stdout) == [arguments, "schön", str(tmp_path), "in", python]
    assert done.stderr == "and that\n"


def test_services_that_it_is_not_have_no_metrics_in_it(python: str, tmp_path: Path) -> None:
    """Though all of them are imported where it is forked."""
    (tmp_path / "counting.py").write_text(COUNTING)
    done = subprocess.run(
        [python, "-m", "counting"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    names = done.stdout.split()
    assert "python_info" in names
    assert not [name for name in names if name.startswith(SERVICES)]


def test_a_command_goes_by_its_own_home(programs: Path, tmp_path: Path) -> None:
    (tmp_path / "caching.py").write_text("from opcod.options import CACHE_DIR; print(CACHE_DIR)")
    told = {name: value for name, value in os.environ.items() if name != "XDG_CACHE_HOME"} | {"HOME": str(tmp_path)}
    command = [str(programs / "python"), "-m", "caching"]
    done = subprocess.run(command, cwd=tmp_path, env=told, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == f"{tmp_path}/.cache/opcod\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_ends_it_ends_the_process(python: str, tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "waiting.py").write_text(WAITING)
    with subprocess.Popen([python, "-m", "waiting"], cwd=tmp_path, stdout=subprocess.PIPE) as started:
        assert started.stdout is not None
        process = psutil.Process(int(started.stdout.readline()))
        started.send_signal(number)
        assert started.wait(WAIT_S) == -number
    wait_until(lambda: not process.is_running(), "the end of the process")


def test_what_is_to_end_with_its_parent_does(python: str, tmp_path: Path) -> None:
    (tmp_path / "waiting.py").write_text(WAITING)
    told = f"os.environ | {{{PARENT_VARIABLE!r}: str(os.getpid())}}"
    code = f"import os, subprocess; subprocess.run([{python!r}, '-m', 'waiting'], env={told})"
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        process = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    wait_until(lambda: not process.is_running(), "the end of the process")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGABRT])
def test_it_ends_by_the_signal_that_ended_the_process(python: str, tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "ending.py").write_text(f"import os; os.kill(os.getpid(), {int(number)})")
    ended = subprocess.run([python, "-m", "ending"], cwd=tmp_path, capture_output=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (-number, b"")


def test_what_it_starts_is_forked_and_what_is_no_module_is_not(python: str, tmp_path: Path) -> None:
    for name, text in (("first", "'-m', 'second'"), ("second", "'-c', 'import sys; print(sys.executable)'")):
        (tmp_path / f"{name}.py").write_text(STARTING.format(text))
    said = subprocess.run([python, "-m", "first"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    assert said.stdout.splitlines() == [python, python, sys.executable]


def test_a_worker_that_dies_takes_its_processes_along(tmp_path: Path) -> None:
    (tmp_path / "waiting.py").write_text(WAITING)
    asking = [sys.executable, "-c", ASKING, str(tmp_path)]
    with subprocess.Popen(
        asking, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE
    ) as one:
        assert one.stdout is not None
        process = psutil.Process(int(one.stdout.readline()))
        one.kill()
    wait_until(lambda: not process.is_running(), "the end of the process")
