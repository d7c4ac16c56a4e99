"""Full weights train in parallel on two real vLLM servers of one student: each keeps a version, and when one is gone
the other does everything (ADR 18)."""

import json
from pathlib import Path

import pytest

from tests.vllm.bench import assert_done, mixed_run

pytestmark = [pytest.mark.model, pytest.mark.slow, pytest.mark.timeout(1800)]
DEADLINE_S = 1500.0
STEPS = 3


def versions_in(log: Path, event: str) -> list[str]:
    """The versions of the lines that say `event`, in their order."""
    lines = [json.loads(line) for line in log.read_text().splitlines() if f'"{event}"' in line]
    return [line["version"] for line in lines]


def test_each_of_two_replicas_keeps_a_version_and_one_goes_on_alone(tmp_path: Path) -> None:
    """The tutor's replica is killed once the last but one version is there; it is started again, and nothing waits."""
    full = ["run.weights=full", "run.schedule=parallel", "students.b.replicas=2"]
    overrides = [*full, f"run.steps_per_round={STEPS}", "feedback.tutor_timeout_s=900"]
    deployment = mixed_run(tmp_path, "pair", DEADLINE_S, *overrides)
    weights, logs = deployment.paths.run_dir / "weights" / "b", deployment.paths.run_dir / "logs"
    try:
        deployment.until(lambda: (weights / "v000002").is_dir())
        loaded, ended = (versions_in(logs / "student-b-1.log", event) for event in ("version loaded", "job ended"))
        deployment.kill("student-b-1")
        assert_done(deployment, STEPS)
        alone = versions_in(logs / "student-b.log", "version loaded")
        assert "b@v0" in ended
        assert set(loaded) < set(alone) == {f"b@v{steps}" for steps in range(STEPS + 1)}
    finally:
        deployment.close()
