"""Whole runs that train all weights and checkpoint seldom: a trainer that is killed makes what it lost again."""

from pathlib import Path

import pytest

from shared.contracts.run import Status
from shared.contracts.weights import WeightsManifest
from shared.faults import ALLOWED, FAULT
from tests.fakes.deployment import ScriptedDeployment, weights_of

FULL = ("run.weights=full", "run.schedule=sequential", "optimizer.checkpoint_every=2")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def test_f3_f4_killed_between_whole_checkpoints_full_weights_come_out_the_same(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = ScriptedDeployment(tmp_path, "calm", tiny_model, *FULL)
    try:
        assert calm.finish().status is Status.DONE
    finally:
        calm.close()
    weights = weights_of(calm.paths.run_dir)
    manifest = WeightsManifest.model_validate_json(
        (calm.paths.run_dir / "weights" / "a" / "v000002" / "manifest.json").read_bytes()
    )
    assert manifest.kind == "full"

    monkeypatch.setenv(ALLOWED, "1")
    monkeypatch.setenv(FAULT, "trainer.before-checkpoint:kill,trainer.after-checkpoint:kill")
    hurt = ScriptedDeployment(tmp_path, "hurt", tiny_model, *FULL)
    try:
        hurt.assert_done(weights)
        log = (hurt.paths.run_dir / "logs" / "trainer-a.log").read_text()
        assert "step made again" in log
        assert "came out otherwise" not in log
    finally:
        hurt.close()
