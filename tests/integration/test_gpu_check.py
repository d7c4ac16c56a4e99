"""`opcod gpu-check` from end to end on a CPU, with a port to GPUs that are not there; and what it says without one."""

import sys
from pathlib import Path

import pytest
from rich.console import Console

from opcod.commands.gpu_check import PAGE, check, planned_offline
from opcod.main import main
from opcod.prepare.run_directory import create_run
from shared.config.loading import load_settings
from shared.config.settings import Paths
from shared.errors import ConfigError
from tests.fakes.forked import fork
from tests.fakes.gpus import GB, ResidentMemory
from tests.unit.modeling.tiny_model import write_tiny_model

SMALL = (
    "problems.per_step=2",
    "rollout.samples=3",
    "rollout.max_tokens=8",
    "feedback.max_tokens=8",
    "evaluation.max_tokens=8",
    "evaluation.validation_problems=2",
    "evaluation.test_problems=2",
    *(
        f"students.{student}.{each}"
        for student in "ab"
        for each in ("engine=transformers", "chat_template=compact", "dtype=float32", "slots=8")
    ),
)


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_two_steps_are_run_and_set_beside_their_plan(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model", context=4096)
    models = [f"students.{student}.model={model}" for student in "ab"]
    settings = load_settings(preset="gpu-check", overrides=[*SMALL, *models], environ={})
    paths = Paths(runs_dir=tmp_path / "runs", run="check", cache_dir=tmp_path / "cache")
    planned = planned_offline(paths, settings, (24 * GB,))
    create_run(paths, settings)
    found = check(paths, settings, planned, ResidentMemory(), Console(quiet=True), fork)
    page = (paths.run_dir / "report" / PAGE).read_text()
    assert found == [], page
    assert "Fake 24, 22.35 GiB, 0.93 in use before the run" in page
    for service in ("student-a", "student-b", "trainer-a", "trainer-b"):
        (row,) = [line for line in page.splitlines() if line.startswith(f"|  | {service} |")]
        _, _, _, plan, held, share, _ = (cell.strip() for cell in row.split("|"))
        assert 0.1 < float(held) <= float(plan) and share.endswith(" %")
    for told in (
        "## Measured on",
        "| trainer a | load |",
        "| run | starting services |",
        "| rollout |",
        "| a | 2 | 0.30 | 0.0",
    ):
        assert told in page


@pytest.mark.parametrize(
    ("visible", "arguments", "said"),
    [
        ("", [], "gpu-check: expected a GPU, found none"),
        ("0", ["--problems", "/nowhere"], "--problems: expected a directory of SciKnowEval"),
        ("0", ["--model", "no-one/no-model"], "no-one/no-model is not; name a directory"),
    ],
)
def test_what_cannot_be_checked_is_refused_before_anything_is_made(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    visible: str,
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    places = ["--runs-dir", str(tmp_path / "runs"), "--cache-dir", str(tmp_path / "cache")]
    model = [] if "--model" in arguments else ["--model", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["opcod", "gpu-check", *model, *arguments, *places])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == ConfigError.exit_code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
