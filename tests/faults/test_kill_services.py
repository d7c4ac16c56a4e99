"""kill -9 of any one service during a run, on the real model: the run ends, every step applied exactly once."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from opcod.options import CACHE_DIR
from opcod.prepare.models import prepare_models
from opcod.prepare.run_directory import create_run
from shared.config.loading import load_settings
from shared.config.settings import Paths
from shared.contracts.run import Status
from tests.fakes.deployment import RunningDeployment, assert_applied_once, assert_nothing_left

STEPS = 2
OVERRIDES = [
    f"run.steps_per_round={STEPS}",
    "bus.lease_s=6",
    "bus.leader_lease_s=3",
    # It is hurt while it trains: before and after that, a word of each answer is enough.
    "evaluation.max_tokens=1",
    "evaluation.validation_problems=2",
    "evaluation.test_problems=2",
]
DEADLINE_S = 240.0

pytestmark = [pytest.mark.model, pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[RunningDeployment]:
    """A smoke-size run of two steps on the embedded model."""
    cache = Path(os.environ.get("OPCOD_CACHE_DIR", CACHE_DIR))
    paths = Paths(runs_dir=tmp_path, run="killed", cache_dir=cache)
    settings = load_settings(preset="smoke", overrides=OVERRIDES)
    create_run(paths, settings)
    prepare_models(paths, settings, lambda _: None)
    running = RunningDeployment(paths, settings, DEADLINE_S)
    yield running
    running.close()


def test_f1_f2_f3_f4_f5_kill_9_of_each_service_loses_no_step(deployment: RunningDeployment) -> None:
    deployment.until_training()
    for name in ("student-a", "broker", "trainer-b", "inspector", "trainer-a", "student-b"):
        deployment.kill(name)
        time.sleep(2.0)
        deployment.launcher.watch()
    state = deployment.finish()
    assert state.status is Status.DONE, f"{state.status}, paused: {state.paused}"
    assert state.steps == {"a": STEPS, "b": STEPS}
    for student in "ab":
        assert_applied_once(deployment.paths.run_dir, student, STEPS)
    assert_nothing_left(deployment.bus)
    assert set(deployment.launcher.restarts) >= {"student-a", "student-b", "broker", "trainer-a", "trainer-b"}
