"""Replicas of a student that join, leave, are killed or cannot load its versions lose and change nothing in a run."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from opcod.commands.status import view_of
from tests.fakes.deployment import ScriptedDeployment
from tests.fakes.joined_replica import Replica

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]
LATENCY_S = "0.3"
"""Of a batch: a replica that answers at once would leave the others nothing to do."""


@pytest.fixture
def deployment(
    request: pytest.FixtureRequest, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ScriptedDeployment]:
    """The parameter: how many replicas of a must hold a version before the run goes on."""
    monkeypatch.setenv("OPCOD_SCRIPT_LATENCY_S", LATENCY_S)
    needed = f"students.a.replicas={request.param}"
    running = ScriptedDeployment(tmp_path, "replicas", tiny_model, needed, "students.a.slots=4")
    yield running
    running.close()


@pytest.mark.parametrize("deployment", [2], indirect=True)
def test_replicas_that_are_killed_join_and_leave_change_nothing(
    deployment: ScriptedDeployment, undisturbed: dict[str, str]
) -> None:
    """The launcher has started a second; two more join by hand. a's trainer stands still until they are there, so that
    the run cannot end before."""
    known = deployment.launcher.deployment
    assert known is not None and "student-a-1" in known.services()
    # A replica that has no URL here says so by its heartbeat. A trainer may be loading its model still.
    deployment.until(lambda: "student-a-1" not in view_of(known)[0].reasons)
    trainer = deployment.launcher.pids()["trainer-a"]
    os.kill(trainer, signal.SIGSTOP)
    third, fourth = Replica(deployment, "a", "2"), Replica(deployment, "a", "3")
    try:
        deployment.until(lambda: min(third.count("version serving"), fourth.count("version serving")) > 0)
        deployment.kill("student-a-1")
        deployment.until(lambda: deployment.launcher.restarts == {"student-a-1": 1})
        os.kill(trainer, signal.SIGCONT)
        deployment.until(lambda: max(third.count("version loaded"), fourth.count("version loaded")) > 1)
        assert third.end(signal.SIGTERM) == 0
        assert fourth.end(signal.SIGKILL) == -signal.SIGKILL
        deployment.assert_done(undisturbed)
    finally:
        for replica in (third, fourth):
            replica.end(signal.SIGKILL)


@pytest.mark.parametrize("deployment", [1], indirect=True)
def test_a_replica_that_sees_no_version_hands_its_jobs_to_the_other(
    deployment: ScriptedDeployment, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    """Its volume is not the run's: no version was ever published there."""
    trainer = deployment.launcher.pids()["trainer-a"]
    os.kill(trainer, signal.SIGSTOP)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(deployment.paths.run_dir / "config.toml", elsewhere)
    blind = Replica(deployment, "a", "1", elsewhere)
    try:
        deployment.until(lambda: blind.count("version serving") > 0)
        os.kill(trainer, signal.SIGCONT)
        deployment.assert_done(undisturbed)
        assert blind.count("version refused") > 0 and blind.count("job handed over") > 0
        assert blind.count("job failed") == 0
    finally:
        blind.end(signal.SIGKILL)
