"""`opcod probe` on scripted students, and what trainers of a tiny real model measure for it."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from opcod.main import main
from opcod.options import paths_for
from opcod.prepare.models import prepare_models
from opcod.prepare.run_directory import create_run
from opcod.probe.probing import Questioning
from opcod.probe.questions import Key, plan_probe
from shared.config.loading import load_settings
from shared.contracts.messages import ChatMessage
from shared.contracts.probing import TaughtAnswer
from shared.errors import ConfigError
from shared.results.probing import Probe
from tests.fakes.sciknoweval import two_domains
from tests.unit.modeling.tiny_model import write_tiny_model

ProbeCommand = Callable[..., tuple[int, str, str]]
SCRIPTED = (
    "students.a.engine=scripted",
    "students.b.engine=scripted",
    "rollout.max_tokens=200",
    "feedback.max_tokens=200",
)


@pytest.fixture
def opcod_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> ProbeCommand:
    """Calls `opcod probe` on the smoke preset as a shell would; returns (exit code, stdout, stderr)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        places = ["--runs-dir", str(tmp_path / "runs"), "--cache-dir", str(tmp_path / "cache")]
        settings = [part for setting in SCRIPTED for part in ("--set", setting)]
        monkeypatch.setattr(sys, "argv", ["opcod", "probe", "smoke", *arguments, *settings, *places])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, said.out, said.err

    return call


@pytest.mark.usefixtures("forking")
def test_a_pair_is_probed_alike_each_time_and_nothing_else_is_left(opcod_probe: ProbeCommand, tmp_path: Path) -> None:
    code, said, error = opcod_probe("--json", "--problems-per-kind", "2", "--samples", "3")
    assert code == 0, error
    found = Probe.model_validate_json(said)
    assert (found.name, found.problems_per_kind, found.samples, len(found.rows)) == ("smoke", 2, 3, 40)
    for row in found.rows:
        assert (row.problems, row.answers) == (2, 6)
        assert row.errors <= round(6 * (1 - row.plain))
        # A script names no formula, and its tokens are bytes that no loss is taken of.
        assert row.told in (None, 0.0) and row.unseen is None
    assert sum(row.errors for row in found.rows) > 20
    assert any(row.delivered for row in found.rows) and any(row.fixed for row in found.rows)
    kept = tmp_path / "runs" / "smoke"
    assert sorted(path.name for path in kept.iterdir()) == ["probe.json", "probe.md"]
    assert json.loads((kept / "probe.json").read_text()) == json.loads(said)

    code, again, error = opcod_probe("--json", "--problems-per-kind", "2", "--samples", "3", "--name", "again")
    assert code == 0, error
    assert Probe.model_validate_json(again).rows == found.rows


@pytest.mark.usefixtures("forking")
def test_a_person_sees_tables_and_then_what_follows(opcod_probe: ProbeCommand, tmp_path: Path) -> None:
    code, said, error = opcod_probe("--problems-per-kind", "1", "--samples", "2", "--seed", "3")
    assert code == 0, error
    words = " ".join(said.split())
    assert "a and b solve 20 problems" in words and "a and b tutor on" in words
    assert "b on the errors of a" in words and "Seed 3, 1 training problems a kind" in words
    assert words.endswith("probe.md")
    assert "# Probe of smoke" in (tmp_path / "runs" / "smoke" / "probe.md").read_text()


@pytest.mark.usefixtures("forking")
def test_a_set_without_formulas_and_solutions_is_probed_by_what_is_let_through(
    opcod_probe: ProbeCommand, tmp_path: Path
) -> None:
    source = two_domains(tmp_path / "sciknow")
    chosen = (
        "problems.format=mcq",
        "students.a.domain=optics",
        "students.b.domain=acids",
        "evaluation.test_problems=2",
        f"problems.source=sciknoweval:{source}",
        "problems.validation_per_domain=4",
    )
    code, said, error = opcod_probe("--json", *(part for setting in chosen for part in ("--set", setting)))
    assert code == 0, error
    rows = Probe.model_validate_json(said).rows
    assert {(row.student, row.domain) for row in rows} == {(s, d) for s in "ab" for d in ("optics", "acids")}
    for row in rows:
        assert (row.formula, row.numbers, row.hinted) == (None, None, None)
        assert row.told == row.delivered
    assert any(row.solution_shown for row in rows)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--samples", "0"), "--samples"),
        (("--problems-per-kind", "0"), "--problems-per-kind"),
        (("--name", "../elsewhere"), "expected a run name"),
        (("--set", "problems.source=/nowhere"), "expected 'generated'"),
        (("--set", "rollout.temprature=1"), "rollout.temprature"),
    ],
)
def test_what_makes_no_sense_is_refused_and_nothing_is_written(
    opcod_probe: ProbeCommand, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    code, _, error = opcod_probe(*arguments)
    assert (code, said in error) == (2, True), error
    assert not (tmp_path / "runs").exists()


def test_where_nothing_can_be_written_nothing_is_asked(opcod_probe: ProbeCommand, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").write_text("")
    code, out, error = opcod_probe("--name", "mine")
    assert (code, "--runs-dir: expected a directory that can be written to" in error, out) == (2, True, ""), error


@pytest.mark.usefixtures("forking")
def test_trainers_measure_what_fits_their_model(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model")
    overrides = [f"students.{student}.{setting}" for student in "ab" for setting in (f"model={model}",)]
    settings = load_settings(preset="smoke", overrides=[*overrides, "lora.first_layer=0"], environ={})
    paths = paths_for(tmp_path / "runs", "probed", tmp_path / "cache")
    create_run(paths, settings)
    prepare_models(paths, settings, lambda _: None)
    shown = (ChatMessage(role="user", content="3 + 4? Feedback: add"),)
    taught = {
        Key(student, problem, "feedback"): TaughtAnswer(
            prompt_token_ids=(40, 41), token_ids=(50,) * length, teacher_messages=shown
        )
        for student, problem, length in (("a", "p1", 3), ("a", "p2", 400), ("b", "p1", 2))
    }
    asking = Questioning(paths, plan_probe(settings, 1, 1), lambda _: None, lambda: False)
    found = asking.reach(taught)
    assert {key: reach.tokens for key, reach in found.items()} == {
        Key("a", "p1", "feedback"): 3,
        Key("b", "p1", "feedback"): 2,
    }


def test_all_students_of_a_run_on_several_nodes_are_asked_on_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    overrides = ["resources.nodes=2", "students.b.engine=vllm", "students.b.vllm.tensor_parallel_size=4"]
    plan = plan_probe(load_settings(preset="smoke", overrides=overrides, environ={}), 1, 1)
    with pytest.raises(ConfigError, match="student-b needs 4 GPUs, this machine has 1"):
        Questioning(paths_for(tmp_path, "probed", tmp_path), plan, lambda _: None, lambda: False)
