"""A whole run that trains all weights and checkpoints seldom: a trainer that is killed makes what it lost again."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from opcod.main import app
from shared.contracts.run import Status
from shared.contracts.weights import WeightsManifest
from shared.obs.faults import ALLOWED, FAULT
from tests.fakes.deployment import STEPS, ScriptedDeployment, assert_applied_once, assert_nothing_left, weights_of

FULL = ("run.weights=full", "run.schedule=sequential", "optimizer.checkpoint_every=2")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400), pytest.mark.usefixtures("forking")]


def command(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.output


def test_f3_f4_killed_between_whole_checkpoints_full_weights_are_those_of_a_replay(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ALLOWED, "1")
    monkeypatch.setenv(FAULT, "trainer.after-checkpoint:kill")
    hurt = ScriptedDeployment(tmp_path, "hurt", tiny_model, *FULL)
    try:
        assert hurt.finish().status is Status.DONE
        assert_nothing_left(hurt.bus)
    finally:
        hurt.close()
    run_dir = hurt.paths.run_dir
    for student in ("a", "b"):
        assert_applied_once(run_dir, student, STEPS)
    version = (run_dir / "weights" / "a" / "v000002" / "manifest.json").read_bytes()
    assert WeightsManifest.model_validate_json(version).kind == "full"
    log = (run_dir / "logs" / "trainer-a.log").read_text()
    assert "step made again" in log
    assert "came out otherwise" not in log

    monkeypatch.delenv(FAULT)
    command("weights", "verify", "hurt", "--runs-dir", str(tmp_path))
    command("replay", "hurt", "--student", "a", "--into", "again", "--runs-dir", str(tmp_path))
    of_a = {name: sha256 for name, sha256 in weights_of(run_dir).items() if name.startswith("weights/a/")}
    assert weights_of(tmp_path / "again") == of_a
