"""Replicas of a student that join, leave, or cannot load its versions lose nothing and change nothing in a run."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from opcod.local.deployment import KEY_FILE
from tests.fakes.deployment import ScriptedDeployment
from tests.fakes.waiting import WAIT_S

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


class Replica:
    """One more `python -m services.student` for student a. files: the run's directory as it sees it."""

    def __init__(self, deployment: ScriptedDeployment, name: str, files: Path | None = None) -> None:
        run_dir = deployment.paths.run_dir
        known = deployment.launcher.deployment
        assert known is not None
        self.name = name
        self._log = run_dir / "logs" / f"student-a-{name}.log"
        environment = os.environ | {
            "OPCOD_RUN": deployment.paths.run,
            "OPCOD_RUN_DIR": str(files or run_dir),
            "OPCOD_CACHE_DIR": str(deployment.paths.cache_dir),
            "OPCOD_REDIS_URL": known.redis_url,
            "OPCOD_KEY_FILE": str(run_dir / KEY_FILE),
            "OPCOD_URL_FILE": str(run_dir / "logs" / f"student-a-{name}.url"),
            "OPCOD_STUDENT": "a",
            "OPCOD_REPLICA": name,
        }
        with self._log.open("ab") as output:
            command = [sys.executable, "-m", "services.student"]
            self._process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)

    def count(self, event: str) -> int:
        """How often it logged that."""
        return self._log.read_text().count(f'"{event}"')

    def end(self, number: signal.Signals) -> int:
        self._process.send_signal(number)
        return self._process.wait(timeout=WAIT_S)


@pytest.mark.parametrize("deployment", [2], indirect=True)
def test_replicas_that_join_and_leave_change_nothing(
    deployment: ScriptedDeployment, undisturbed: dict[str, str]
) -> None:
    """a's trainer stands still until they are there, so that the run cannot end before."""
    trainer = deployment.launcher.pids()["trainer-a"]
    os.kill(trainer, signal.SIGSTOP)
    second, third = Replica(deployment, "1"), Replica(deployment, "2")
    try:
        deployment.until(lambda: min(second.count("version serving"), third.count("version serving")) > 0)
        os.kill(trainer, signal.SIGCONT)
        deployment.until(lambda: max(second.count("version loaded"), third.count("version loaded")) > 1)
        assert second.end(signal.SIGTERM) == 0
        assert third.end(signal.SIGKILL) == -signal.SIGKILL
        deployment.assert_done(undisturbed)
    finally:
        for replica in (second, third):
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
    blind = Replica(deployment, "1", elsewhere)
    try:
        deployment.until(lambda: blind.count("version serving") > 0)
        os.kill(trainer, signal.SIGCONT)
        deployment.assert_done(undisturbed)
        assert blind.count("version refused") > 0 and blind.count("job handed over") > 0
        assert blind.count("job failed") == 0
    finally:
        blind.end(signal.SIGKILL)
