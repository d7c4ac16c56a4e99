"""kill -9 of any one service during a run, on the real model: the run ends, every step applied exactly once."""

import hashlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from opcod.following import Follower
from opcod.launcher import Launcher
from opcod.options import CACHE_DIR
from opcod.preparing import create_run, prepare_models
from opcod.progress import RunProgress
from shared.bus.keys import RESULTS
from shared.bus.redis import RedisBus
from shared.config.loading import load_settings
from shared.config.settings import Paths
from shared.contracts.run import RunState, Status
from shared.contracts.weights import WeightsManifest

STEPS = 2
DEADLINE_S = 240.0

pytestmark = [pytest.mark.model, pytest.mark.slow, pytest.mark.timeout(400)]


class Deployment:
    """A smoke-size run of two steps whose services can be killed."""

    def __init__(self, runs_dir: Path) -> None:
        cache = Path(os.environ.get("OPCOD_CACHE_DIR", CACHE_DIR))
        self.paths = Paths(runs_dir=runs_dir, run="killed", cache_dir=cache)
        self.settings = load_settings(
            preset="smoke", overrides=[f"run.steps_per_round={STEPS}", "bus.lease_s=6", "bus.leader_lease_s=3"]
        )
        create_run(self.paths, self.settings)
        prepare_models(self.paths, self.settings, lambda _: None)
        self.launcher = Launcher(self.paths, self.settings, "run")
        self.launcher.start(lambda _: None)
        assert self.launcher.deployment is not None
        self.bus = RedisBus(self.launcher.deployment.redis_url, "killed")
        progress = RunProgress(Console(quiet=True), 1, STEPS)
        self.follower = Follower(self.launcher, self.bus, progress, after="0")

    def state(self) -> RunState:
        text = self.bus.load_state()
        return RunState.model_validate_json(text) if text else pytest.fail("the run has no state")

    def until_training(self) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while self.state().status is not Status.TRAINING:
            assert time.monotonic() < deadline, f"still {self.state().status}"
            self.launcher.watch()
            time.sleep(0.2)

    def kill(self, name: str) -> None:
        os.kill(self.launcher.pids()[name], signal.SIGKILL)

    def finish(self) -> RunState:
        deadline = time.monotonic() + DEADLINE_S
        state = self.follower.until(lambda: time.monotonic() > deadline)
        assert state is not None
        return state

    def close(self) -> None:
        self.launcher.stop()
        self.bus.close()


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    running = Deployment(tmp_path)
    yield running
    running.close()


def test_f1_f2_f3_f4_f5_kill_9_of_each_service_loses_no_step(deployment: Deployment) -> None:
    deployment.until_training()
    for name in ("student-a", "broker", "trainer-b", "inspector", "trainer-a", "student-b"):
        deployment.kill(name)
        time.sleep(2.0)
        deployment.launcher.watch()
    state = deployment.finish()
    assert state.status is Status.DONE, f"{state.status}, paused: {state.paused}"
    assert state.steps == {"a": STEPS, "b": STEPS}
    for student in "ab":
        assert_applied_once(deployment.paths.run_dir, student)
    assert deployment.bus.dead_letters() == []
    assert deployment.bus.queue_depth(RESULTS, "broker") == (0, 0)
    assert set(deployment.launcher.restarts) >= {"student-a", "student-b", "broker", "trainer-a", "trainer-b"}


def assert_applied_once(run_dir: Path, student: str) -> None:
    """Versions 1 to STEPS, each from the batch of its own step and from the version before it."""
    versions = sorted((run_dir / "weights" / student).iterdir())
    assert [path.name for path in versions] == [f"v{step:06d}" for step in range(1, STEPS + 1)]
    for step, path in enumerate(versions, start=1):
        manifest = WeightsManifest.model_validate_json((path / "manifest.json").read_bytes())
        batch = run_dir / "batches" / student / f"s{step:05d}" / "manifest.json"
        assert (manifest.step, manifest.parent) == (step, f"{student}@v{step - 1}")
        assert manifest.batch_sha256 == hashlib.sha256(batch.read_bytes()).hexdigest()
