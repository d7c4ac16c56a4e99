"""Everything killed at once, Redis lost with all its data, Redis emptied under a run: it ends as if undisturbed.

Processes are stopped at a fault point first, so that what is open when they die is the same every time.
"""

import os
import shutil
import signal
from pathlib import Path

import psutil
import pytest
import redis

from shared.obs.faults import ALLOWED, FAULT, MARKS
from tests.fakes.deployment import THREE, ScriptedDeployment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


class Sittings:
    """One run, begun once and gone on with; each sitting ends with all trainers or all students stopped."""

    def __init__(
        self, runs_dir: Path, model: Path, monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...]
    ) -> None:
        monkeypatch.setenv(ALLOWED, "1")
        self._runs_dir = runs_dir
        self._model = model
        self._monkeypatch = monkeypatch
        self._overrides = overrides
        self.running: ScriptedDeployment | None = None

    def begin(self, point: str) -> ScriptedDeployment:
        """Returns when the owners of `point` stand there."""
        self._monkeypatch.setenv(FAULT, f"{point}:stop")
        # No revisions: a student that found some of them left over would stand still before it is ready.
        running = ScriptedDeployment(
            self._runs_dir, "sittings", self._model, "feedback.revise_share=0", *self._overrides
        )
        self.running, marks = running, running.paths.run_dir / MARKS
        running.until(lambda: all((marks / f"{point}-{name}").exists() for name in running.settings.names))
        return running

    def kill_everything(self) -> None:
        assert self.running is not None
        services = [psutil.Process(pid) for pid in self.running.launcher.pids().values()]
        everything = services + [child for service in services for child in service.children(recursive=True)]
        for process in everything:
            process.kill()
        _, alive = psutil.wait_procs(everything, timeout=10)
        assert not alive
        self.running.close()


@pytest.mark.parametrize("overrides", [(), THREE], ids=["two", "three"])
def test_f7_f8_everything_killed_and_redis_lost_or_emptied_ends_undisturbed(
    tmp_path: Path,
    tiny_model: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    overrides: tuple[str, ...],
) -> None:
    weights = request.getfixturevalue("undisturbed_three" if overrides else "undisturbed")
    sittings = Sittings(tmp_path, tiny_model, monkeypatch, overrides)
    try:
        sittings.begin("trainer.mid-optimizer")  # of step 1
        sittings.kill_everything()

        lost = sittings.begin("student.generated")  # rollouts of step 2
        sittings.kill_everything()
        shutil.rmtree(lost.paths.run_dir / "redis")

        emptied = sittings.begin("trainer.before-ack")  # of step 2, which is announced
        assert emptied.launcher.deployment is not None
        with redis.Redis.from_url(emptied.launcher.deployment.redis_url) as client:
            client.flushall()
        for name in emptied.settings.names:
            os.kill(emptied.launcher.pids()[f"trainer-{name}"], signal.SIGCONT)
        emptied.assert_done(weights)
    finally:
        if sittings.running is not None:
            sittings.running.close()
