"""Full weights train in parallel on two real vLLM servers of one student: each keeps a version, and when one is gone
the other does everything (ADR 18)."""

import json
from pathlib import Path

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

pytestmark = [pytest.mark.model, pytest.mark.slow, pytest.mark.timeout(1800)]
DEADLINE_S = 1500.0
STEPS = 3


def versions_in(log: Path, event: str) -> list[str]:
    """The versions of the lines that say `event`, in their order."""
    lines = [json.loads(line) for line in log.read_text().splitlines() if f'"{event}"' in line]
    return [line["version"] for line in lines]


def test_each_of_two_replicas_keeps_a_version_and_one_goes_on_alone(tmp_path: Path) -> None:
    """The tutor's replica is killed once the last but one version is there; it is started again, and nothing waits."""
    paths = Paths(runs_dir=tmp_path, run="pair", cache_dir=CACHE_DIR)
    overrides = [*vllm_settings("b"), "students.b.replicas=2", f"run.steps_per_round={STEPS}"]
    overrides += ["run.weights=full", "run.schedule=parallel", "feedback.tutor_timeout_s=900"]
    settings = load_settings(preset="smoke", overrides=overrides, environ={})
    create_run(paths, settings)
    prepare_models(paths, settings, lambda _: None)
    deployment = RunningDeployment(paths, settings, DEADLINE_S)
    weights, logs = paths.run_dir / "weights" / "b", paths.run_dir / "logs"
    try:
        deployment.until(lambda: (weights / "v000002").is_dir())
        loaded, ended = (versions_in(logs / "student-b-1.log", event) for event in ("version loaded", "job ended"))
        deployment.kill("student-b-1")
        state = deployment.finish()
        assert state.status is Status.DONE, f"{state.status}, paused: {state.paused}, failed: {state.failed}"
        assert state.steps == {"a": STEPS, "b": STEPS}
        for student in ("a", "b"):
            assert_applied_once(paths.run_dir, student, STEPS)
        assert_nothing_left(deployment.bus)
        alone = versions_in(logs / "student-b.log", "version loaded")
        assert "b@v0" in ended
        assert set(loaded) < set(alone) == {f"b@v{steps}" for steps in range(STEPS + 1)}
        steps = [step for student in ("a", "b") for step in records_of(paths, student)]
        assert len(steps) == 2 * STEPS and all(step.metrics.delta_logprob < 0.2 for step in steps)
    finally:
        deployment.close()
