"""A whole run with student b on vLLM, whose engine is killed in the middle: it ends DONE with nothing lost."""

import os
import signal
from pathlib import Path

import psutil
import pytest

from opcod.options import CACHE_DIR
from opcod.prepare.models import prepare_models
from opcod.prepare.run_directory import create_run
from opcod.report.writing import records_of
from shared.config.loading import load_settings
from shared.config.settings import Paths
from shared.contracts.run import Status
from tests.fakes.deployment import RunningDeployment, assert_applied_once, assert_nothing_left
from tests.vllm.bench import vllm_settings

pytestmark = [pytest.mark.model, pytest.mark.slow, pytest.mark.timeout(1500)]
DEADLINE_S = 1200.0
STEPS = 2


def engine_core(deployment: RunningDeployment) -> psutil.Process | None:
    """The process of student b's vLLM that holds the model."""
    student = psutil.Process(deployment.launcher.pids()["student-b"])
    found = [child for child in student.children(recursive=True) if "EngineCore" in " ".join(child.cmdline())]
    return found[0] if found else None


def test_a_run_goes_on_when_its_engine_is_killed(tmp_path: Path) -> None:
    paths = Paths(runs_dir=tmp_path, run="mixed", cache_dir=CACHE_DIR)
    overrides = [*vllm_settings("b"), f"run.steps_per_round={STEPS}", "feedback.tutor_timeout_s=900"]
    settings = load_settings(preset="smoke", overrides=overrides, environ={})
    create_run(paths, settings)
    prepare_models(paths, settings, lambda _: None)
    deployment = RunningDeployment(paths, settings, DEADLINE_S)
    try:
        deployment.until(lambda: (paths.run_dir / "weights" / "b").is_dir())
        killed = engine_core(deployment)
        assert killed is not None
        os.kill(killed.pid, signal.SIGKILL)
        state = deployment.finish()
        assert state.status is Status.DONE, f"{state.status}, paused: {state.paused}, failed: {state.failed}"
        assert state.steps == {"a": STEPS, "b": STEPS}
        for student in ("a", "b"):
            assert_applied_once(paths.run_dir, student, STEPS)
        assert_nothing_left(deployment.bus)
        assert "student-b" not in deployment.launcher.restarts
        back = engine_core(deployment)
        assert back is not None and back.pid != killed.pid
        log = (paths.run_dir / "logs" / "student-b.log").read_text()
        assert "engine is started again" in log
        steps = [step for student in ("a", "b") for step in records_of(paths, student)]
        assert len(steps) == 2 * STEPS and all(step.metrics.delta_logprob < 0.2 for step in steps)
    finally:
        deployment.close()
