"""The baselines from end to end: batches that a real broker sealed, through a trainer process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from services.broker.sealing import adopt
from shared.blobs.local import LocalStore
from shared.config.loading import to_toml
from shared.contracts.ids import version_name
from shared.contracts.weights import ReplayedStep
from tests.fakes.broker import RUN, BrokerBench
from tests.fakes.scripted_run import scripted_run
from tests.unit.modeling.tiny_model import write_tiny_model
from tests.unit.trainer.ground import BASE_SHA256, STUDENT

STEPS = 2
SETTINGS = (
    f"run.steps_per_round={STEPS}",
    "rollout.max_tokens=60",
    "problems.per_step=4",
    "rollout.samples=4",
    "optimizer.learning_rate=1e-2",
    "optimizer.mini_batches=2",
    "lora.first_layer=1",
    "lora.rank=4",
    "students.a.dtype=float32",
    "students.a.chat_template=none",
    "students.b.chat_template=none",
)


@pytest.fixture(scope="module")
def tiny_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize("method", ["sdpo", "grpo"])
def test_a_baseline_s_batches_are_trained_on_by_its_rule(method: str, tmp_path: Path, tiny_dir: Path) -> None:
    bench = scripted_run(tmp_path / "run", {"a": {}, "b": {}}, *SETTINGS, f"run.method={method}")
    bench.finish()
    steps = trained(bench, tmp_path / "out", tiny_dir)
    assert [step.version for step in steps] == [version_name(STUDENT, number) for number in range(1, STEPS + 1)]
    assert len({step.checksum for step in steps}) == STEPS
    assert all(step.grad_norm > 0 for step in steps)
    reports = [done["metrics"] for done in checkpoint(tmp_path / "out")["done"]]
    for number, metrics in enumerate(reports, start=1):
        sealed = adopt(LocalStore(bench.run_dir), STUDENT, number, RUN)
        assert sealed is not None
        assert metrics["active_share"] == sealed.manifest.active_samples / sealed.manifest.samples > 0
        assert ("teacher" in metrics["seconds"]) == (method == "sdpo")


def trained(bench: BrokerBench, out: Path, tiny_dir: Path) -> list[ReplayedStep]:
    """What a trainer process with the run's own configuration makes of its sealed batches."""
    (out / "models").mkdir(parents=True)
    (out / "config.toml").write_text(to_toml(bench.settings))
    (out / "models" / f"{STUDENT}.json").write_text(json.dumps({"path": str(tiny_dir), "sha256": BASE_SHA256}))
    command = [sys.executable, "-m", "services.trainer.replaying", "--student", STUDENT]
    done = subprocess.run(
        [*command, "--batches", str(bench.run_dir), "--out", str(out)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [ReplayedStep.model_validate_json(line) for line in done.stdout.splitlines()]


def checkpoint(out: Path) -> dict[str, list[dict[str, dict[str, object]]]]:
    newest = max((out / "checkpoints" / STUDENT).glob("k*"))
    read: dict[str, list[dict[str, dict[str, object]]]] = json.loads((newest / "manifest.json").read_bytes())
    return read
