"""Every named point of a step: its owner is hurt there, and the run ends as if nothing had happened.

One run passes several points: a process that comes back after one fault meets the next. In CI each owner is killed at
each point; `make faults-full` also stops it past its lease, asks it to end, and lets the point raise.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from shared.obs.faults import ALLOWED, FAULT, MARKS, POINTS
from tests.fakes.deployment import LEASE_S, THREE, ScriptedDeployment
from tests.faults.test_streaming import BETWEEN_GROUPS

FULL = os.environ.get("OPCOD_FAULTS_FULL") == "1"
ACTIONS = ("kill", "stop", "term", "error") if FULL else ("kill",)

TAKING = {
    "student.job-taken": 1,
    "student.generated": 2,
    "broker.before-seal": 1,
    "broker.before-commit": 12,
    "trainer.before-step": 1,
    "trainer.mid-optimizer": 2,
    "trainer.before-checkpoint": 1,
    "trainer.mid-checkpoint": 1,
}
TELLING = {
    "student.before-complete": 1,
    "student.after-complete": 2,
    "student.version-loaded": 2,
    "broker.after-seal": 1,
    "broker.after-commit": 12,
    "trainer.after-checkpoint": 1,
    "trainer.before-publish": 1,
    "trainer.after-publish": 1,
    "trainer.before-ack": 1,
}
"""By point: at which passing it strikes. No service has more than four, or its supervisor would give up on it."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("points", [TAKING, TELLING], ids=["taking", "telling"])
def test_f1_f2_f3_f4_f12_f31_owner_hurt_at_every_point_ends_undisturbed(
    points: dict[str, int],
    action: str,
    tmp_path: Path,
    tiny_model: Path,
    undisturbed: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(ALLOWED, "1")
    monkeypatch.setenv(FAULT, ",".join(f"{point}:{action}:{nth}" for point, nth in points.items()))
    with stopped_are_continued(after_s=LEASE_S + 1):
        running = ScriptedDeployment(tmp_path, f"hurt-{action}", tiny_model)
        try:
            running.assert_done(undisturbed)
            assert struck(running.paths.run_dir) == owners(points)
        finally:
            running.close()


def test_f1_f2_f3_f4_owners_of_three_students_killed_at_every_point_that_takes_end_undisturbed(
    tmp_path: Path, tiny_model: Path, undisturbed_three: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ALLOWED, "1")
    monkeypatch.setenv(FAULT, ",".join(f"{point}:kill:{nth}" for point, nth in TAKING.items()))
    running = ScriptedDeployment(tmp_path, "hurt-three", tiny_model, *THREE)
    try:
        running.assert_done(undisturbed_three)
        assert struck(running.paths.run_dir) == owners(TAKING, running.settings.names)
    finally:
        running.close()


def test_every_point_is_struck() -> None:
    assert {*TAKING, *TELLING, *BETWEEN_GROUPS} == set(POINTS)
    for service in ("student", "broker", "trainer"):
        groups = (TAKING, TELLING, BETWEEN_GROUPS)
        assert all(sum(point.startswith(service) for point in group) <= 4 for group in groups)


def struck(run_dir: Path) -> set[str]:
    return {path.name for path in (run_dir / MARKS).iterdir()}


def owners(points: dict[str, int], students: Sequence[str] = ("a", "b")) -> set[str]:
    """The marks that each owner leaves: one broker, a student and a trainer for each of `students`."""
    shared = {point for point in points if point.startswith("broker")}
    return shared | {f"{point}-{student}" for point in points.keys() - shared for student in students}


@contextmanager
def stopped_are_continued(after_s: float) -> Iterator[None]:
    """SIGCONT to each process below this one that has been stopped that long."""
    ended = threading.Event()
    since: dict[int, float] = {}

    def watch() -> None:
        while not ended.wait(0.2):
            for process in psutil.Process().children(recursive=True):
                try:
                    stopped = process.status() == psutil.STATUS_STOPPED
                except psutil.NoSuchProcess:
                    continue
                if not stopped:
                    since.pop(process.pid, None)
                elif time.monotonic() - since.setdefault(process.pid, time.monotonic()) > after_s:
                    process.send_signal(signal.SIGCONT)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
