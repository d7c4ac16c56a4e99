"""A whole run with student b on vLLM, whose engine is killed in the middle: it ends DONE with nothing lost."""

import os
import signal
from pathlib import Path

import psutil
import pytest

from tests.fakes.deployment import RunningDeployment
from tests.vllm.bench import assert_done, mixed_run

pytestmark = [pytest.mark.model, pytest.mark.slow, pytest.mark.timeout(1500)]
DEADLINE_S = 1200.0
STEPS = 2


def engine_core(deployment: RunningDeployment) -> psutil.Process | None:
    """The process of student b's vLLM that holds the model."""
    student = psutil.Process(deployment.launcher.pids()["student-b"])
    found = [child for child in student.children(recursive=True) if "EngineCore" in " ".join(child.cmdline())]
    return found[0] if found else None


def test_a_run_goes_on_when_its_engine_is_killed(tmp_path: Path) -> None:
    overrides = [f"run.steps_per_round={STEPS}", "feedback.tutor_timeout_s=900"]
    deployment = mixed_run(tmp_path, "mixed", DEADLINE_S, *overrides)
    run_dir = deployment.paths.run_dir
    try:
        deployment.until(lambda: (run_dir / "weights" / "b").is_dir())
        killed = engine_core(deployment)
        assert killed is not None
        os.kill(killed.pid, signal.SIGKILL)
        assert_done(deployment, STEPS)
        assert "student-b" not in deployment.launcher.restarts
        back = engine_core(deployment)
        assert back is not None and back.pid != killed.pid
        assert "engine is started again" in (run_dir / "logs" / "student-b.log").read_text()
    finally:
        deployment.close()
