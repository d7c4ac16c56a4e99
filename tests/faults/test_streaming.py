"""Services that die and a Redis that is emptied between two groups of a step: the run ends, every step is applied once,
and a replay of its batches gives its weights.

In which order groups come is not the same twice, so such a run is held against its own batches.
"""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from typer.testing import CliRunner

from opcod.main import app
from shared.contracts.run import Status
from shared.obs.faults import ALLOWED, FAULT, MARKS
from tests.fakes.deployment import STEPS, ScriptedDeployment, assert_applied_once, assert_nothing_left

GROUPS = 6
STREAM = (
    "run.stream=true",
    f"problems.per_step={GROUPS}",
    "feedback.revise_share=0",
    # One job at a time, and one of feedback: groups come apart.
    "students.a.slots=3",
    "students.b.slots=3",
)
LATENCY_S = "0.2"

BETWEEN_GROUPS = {
    "trainer.between-groups": 2,
    "student.before-complete": 5,
    "broker.after-commit": 40,
}
"""By point: at which passing it strikes. The first ones of a student are validation."""

Begin = Callable[[], ScriptedDeployment]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture
def begin(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Begin:
    monkeypatch.setenv("OPCOD_SCRIPT_LATENCY_S", LATENCY_S)
    monkeypatch.setenv(ALLOWED, "1")
    return lambda: ScriptedDeployment(tmp_path, "streamed", tiny_model, *STREAM)


def assert_whole(running: ScriptedDeployment, monkeypatch: pytest.MonkeyPatch) -> None:
    state = running.finish()
    assert state.status is Status.DONE, f"{state.status}, paused: {state.paused}, failed: {state.failed}"
    for student in ("a", "b"):
        assert_applied_once(running.paths.run_dir, student, STEPS)
        assert "step was begun ahead of its batch" in log_of(running, student)
    assert_nothing_left(running.bus)
    monkeypatch.delenv(ALLOWED)
    for student in ("a", "b"):
        arguments = ["replay", running.paths.run, "--student", student, "--into", f"again-{student}"]
        result = CliRunner().invoke(app, [*arguments, "--runs-dir", str(running.paths.runs_dir)])
        assert result.exit_code == 0, result.output
        assert result.output.count("as recorded, loss") == STEPS


def log_of(running: ScriptedDeployment, student: str) -> str:
    return (running.paths.run_dir / "logs" / f"trainer-{student}.log").read_text()


def between_groups(running: ScriptedDeployment) -> bool:
    """Whether a step of either student is under way, with groups that its trainer was told to begin with."""
    steps = [phase.step for phase in running.state().phases if phase.step is not None]
    return any(step.ahead and not step.sealed for step in steps)


def test_f1_f2_f3_f4_an_owner_killed_between_two_groups_makes_the_step_of_its_batch(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FAULT, ",".join(f"{point}:kill:{nth}" for point, nth in BETWEEN_GROUPS.items()))
    running = begin()
    try:
        assert_whole(running, monkeypatch)
        marks = {path.name for path in (running.paths.run_dir / MARKS).iterdir()}
        assert marks == {
            *(f"{point}-{student}" for point in BETWEEN_GROUPS if "broker" not in point for student in "ab"),
            "broker.after-commit",
        }
    finally:
        running.close()


def test_f1_f2_f3_f4_each_service_killed_while_a_step_is_half_there(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = begin()
    try:
        for name in ("trainer-a", "broker", "student-b", "student-a", "trainer-b"):
            running.until(lambda: between_groups(running))
            running.kill(name)
            running.launcher.watch()
        assert_whole(running, monkeypatch)
    finally:
        running.close()


def test_f8_redis_emptied_between_two_groups_has_the_step_made_again(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its trainers stand between two groups meanwhile, with a gradient of what is no more."""
    monkeypatch.setenv(FAULT, "trainer.between-groups:stop:2")
    running = begin()
    try:
        marks = running.paths.run_dir / MARKS
        running.until(lambda: any((marks / f"trainer.between-groups-{student}").exists() for student in "ab"))
        assert between_groups(running)
        assert running.launcher.deployment is not None
        with redis.Redis.from_url(running.launcher.deployment.redis_url) as client:
            client.flushall()
        running.until(lambda: all((marks / f"trainer.between-groups-{student}").exists() for student in "ab"))
        for name in ("trainer-a", "trainer-b"):
            os.kill(running.launcher.pids()[name], signal.SIGCONT)
        assert_whole(running, monkeypatch)
    finally:
        running.close()
