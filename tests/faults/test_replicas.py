"""Replicas of a student that join and leave in the middle of a run lose nothing and change nothing."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from opcod.deployment import KEY_FILE
from shared.contracts.run import Status
from tests.fakes.deployment import ScriptedDeployment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]
LATENCY_S = "1.0"
"""Of a batch: replicas that answer at once would leave one of them nothing to do."""


@pytest.fixture
def deployment(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedDeployment]:
    monkeypatch.setenv("OPCOD_SCRIPT_LATENCY_S", LATENCY_S)
    running = ScriptedDeployment(tmp_path, "replicas", tiny_model, "students.a.replicas=2", "students.a.slots=4")
    yield running
    running.close()


class Replica:
    """One more `python -m services.student` for student a."""

    def __init__(self, deployment: ScriptedDeployment, name: str) -> None:
        run_dir = deployment.paths.run_dir
        known = deployment.launcher.deployment
        assert known is not None
        self.name = name
        self._log = run_dir / "logs" / f"student-a-{name}.log"
        environment = os.environ | {
            "OPCOD_RUN": deployment.paths.run,
            "OPCOD_RUN_DIR": str(run_dir),
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
        return self._process.wait(timeout=60)


def test_replicas_that_join_and_leave_change_nothing(
    deployment: ScriptedDeployment, undisturbed: dict[str, str]
) -> None:
    second = Replica(deployment, "1")
    third: Replica | None = None
    try:
        deployment.until(lambda: second.count("job ended") > 0)
        third = Replica(deployment, "2")
        assert second.end(signal.SIGTERM) == 0
        deployment.until(lambda: third.count("version serving") > 0)
        assert third.end(signal.SIGKILL) == -signal.SIGKILL
        assert deployment.state().status is not Status.DONE
        deployment.assert_done(undisturbed)
    finally:
        for replica in (second, third):
            if replica is not None:
                replica.end(signal.SIGKILL)
