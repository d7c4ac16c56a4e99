"""`opcod compare` from end to end: real processes, a tiny random model, three methods and two runs on one seed."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from opcod.main import app
from services.broker.recovery import InitialScores
from shared.contracts.run import INITIAL_SCORES_FILE, RunState
from shared.results.comparison import Comparison
from tests.unit.modeling.tiny_model import write_tiny_model

NAMES = ("mini-opcod-s0", "mini-sdpo-s0")
SMALL = (
    "run.steps_per_round=1",
    "rollout.max_tokens=4",
    "feedback.max_tokens=4",
    "evaluation.max_tokens=4",
    "evaluation.validation_problems=2",
    "evaluation.test_problems=2",
    "lora.first_layer=0",
)

pytestmark = [pytest.mark.model, pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    model = write_tiny_model(tmp_path_factory.mktemp("tiny"))
    overrides = [*SMALL, f"students.a.model={model}", f"students.b.model={model}"]
    return ["--preset", "compare-mini", "--name", "mini", *(part for each in overrides for part in ("--set", each))]


def arguments(runs_dir: Path, options: Sequence[str]) -> list[str]:
    places = ["--runs-dir", str(runs_dir), "--cache-dir", str(runs_dir / "cache")]
    return ["compare", "--methods", "opcod,sdpo,never", "--seeds", "1", *options, *places]


def compare(runs_dir: Path, options: Sequence[str]) -> str:
    command = [sys.executable, "-m", "opcod.main", *arguments(runs_dir, options)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.usefixtures("forking")
def test_methods_are_run_compared_and_not_run_again(tmp_path: Path, options: list[str]) -> None:
    out = compare(tmp_path, options)
    assert "mini-sdpo-s0: initial scores taken over from mini-opcod-s0" in out
    states = [RunState.model_validate_json((tmp_path / name / "state.json").read_bytes()) for name in NAMES]
    assert [state.gates[0].mode for state in states] == ["cognizance", "never"]
    assert [state.steps for state in states] == [{"a": 1, "b": 1}] * 2
    shared = InitialScores.model_validate_json((tmp_path / NAMES[1] / INITIAL_SCORES_FILE).read_bytes())
    assert shared.run == NAMES[0]
    assert states[0].scores[:4] == states[1].scores[:4] == shared.scores
    assert states[0].tallies["a"].output_tokens["eval"] > states[1].tallies["a"].output_tokens["eval"]
    comparison = Comparison.model_validate_json((tmp_path / "mini" / "compare.json").read_bytes())
    assert comparison.finished
    assert [list(method.runs.values()) for method in comparison.methods] == [[NAMES[0]], [NAMES[1]], [NAMES[1]]]
    before = [(tmp_path / name / "timeline.json").read_bytes() for name in NAMES]
    again = CliRunner().invoke(app, arguments(tmp_path, options))
    assert again.exit_code == 0, again.output
    assert again.output.count("finished already, read") == 2
    assert [(tmp_path / name / "timeline.json").read_bytes() for name in NAMES] == before
