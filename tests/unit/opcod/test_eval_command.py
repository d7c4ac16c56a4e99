"""`opcod eval` on runs with scripted students: a process that answers, a file, the same numbers each time."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shared.problems.generated import generate
from shared.problems.manifest import manifest
from shared.problems.pinned import PROBLEMS_FILE
from shared.problems.problem import ProblemSet
from tests.fakes.command import call_opcod
from tests.fakes.student import RUN, config_in, publish_version

Eval = Callable[..., tuple[int, str, str]]
pytestmark = pytest.mark.usefixtures("forking")

QUICK = ("--samples", "2", "--limit", "3")


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run of scripted students whose student a has published a@v1 and a@v2."""
    directory = tmp_path / "runs" / RUN
    config_in(directory)
    (directory / "state.json").write_text("{}")
    for steps in (1, 2):
        publish_version(directory, steps)
    return directory


@pytest.fixture
def opcod_eval(run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Eval:
    """Calls `opcod eval` as a shell would; returns (exit code, stdout, stderr)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        places = ["--runs-dir", str(run_dir.parent), "--cache-dir", str(run_dir)]
        code = call_opcod(monkeypatch, "eval", *arguments, *places)
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def written(run_dir: Path) -> list[Path]:
    return sorted((run_dir / "eval").glob("*"))


def directory_of(problems: ProblemSet, path: Path) -> Path:
    """The set as files, its test problems being those that the run trains on."""
    path.mkdir()
    for name, rows in (("train", problems.test), ("validation", problems.validation), ("test", problems.train)):
        lines = [json.dumps({"id": p.id, "domain": p.domain, "question": p.question, "answer": p.answer}) for p in rows]
        (path / f"{name}.jsonl").write_text("\n".join(lines))
    return path


def test_the_newest_version_is_scored_alike_each_time(opcod_eval: Eval, run_dir: Path) -> None:
    code, first, error = opcod_eval("--student", "a", "--json", *QUICK)
    assert code == 0, error
    found: dict[str, Any] = json.loads(first)
    assert (found["evaluated"]["version"], found["evaluated"]["samples"]) == ("a@v2", 2)
    assert [(row["domain"], row["problems"]) for row in found["domains"]] == [("physics", 3), ("chemistry", 3)]
    assert opcod_eval("--student", "a@v2", "--json", *QUICK)[1] == first
    [file] = written(run_dir)
    assert json.loads(file.read_text()) == found


def test_a_person_sees_what_is_the_score_and_what_is_not(opcod_eval: Eval, run_dir: Path) -> None:
    code, said, error = opcod_eval("--student", "b", "--problems", "validation", *QUICK)
    assert code == 0, error
    words = " ".join(said.split())
    assert "b@v0" in words and "validation" in words
    assert "score" in words and "majority" in words
    assert written(run_dir)[0].name.startswith("b@v0-validation-")


def test_other_problems_can_be_named_and_those_trained_on_are_pointed_out(
    opcod_eval: Eval, run_dir: Path, tmp_path: Path
) -> None:
    source = directory_of(generate(config_in(run_dir).settings.run.seed), tmp_path / "mine")
    code, said, error = opcod_eval("--student", "a@v0", "--problems", str(source), *QUICK)
    assert code == 0, error
    assert "6 of the 6 problems stand in this run's training problems" in " ".join(said.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--student", "c"), "expected one of a, b, or such as a@v12, got 'c'"),
        (("--student", "a@v7"), "a@v7 is not published"),
        (("--student", "b@v1"), "there is 0, the base model"),
        (("--student", "a@17"), "expected a version such as a@v17"),
        (("--student", "a", "--problems", "tset"), "got 'tset'"),
        (("--student", "a", "--limit", "100000"), "expected at least 100000 problems of physics"),
        (("--student", "a", "--run", "unknown"), "expected a run at"),
        (("--student", "a", "--samples", "0"), "--samples"),
        ((), "--student"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(
    opcod_eval: Eval, run_dir: Path, arguments: tuple[str, ...], said: str
) -> None:
    code, _, error = opcod_eval(*arguments)
    assert (code, said in error) == (2, True), error
    assert not (run_dir / "eval").exists()


@pytest.mark.parametrize("source", ["test", "train", "other"])
def test_problems_that_are_others_than_the_run_s_are_not_scored_as_its_own(
    opcod_eval: Eval, run_dir: Path, tmp_path: Path, source: str
) -> None:
    """Nor are others, of which it could not be said any more whether it was trained on them."""
    now = generate(config_in(run_dir).settings.run.seed)
    begun_with = manifest(now).model_copy(update={"content_hash": "0" * 64})
    (run_dir / PROBLEMS_FILE).write_text(begun_with.model_dump_json())
    asked = str(directory_of(now, tmp_path / "mine")) if source == "other" else source
    code, _, error = opcod_eval("--student", "a", "--problems", asked, *QUICK)
    assert (code, "was begun with other problems: content hash 000000000000…" in error) == (2, True), error
    assert not (run_dir / "eval").exists()


def test_weights_that_were_changed_are_not_scored(opcod_eval: Eval, run_dir: Path) -> None:
    weights = run_dir / "weights/a/v000002/adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    code, _, error = opcod_eval("--student", "a", *QUICK)
    assert code != 0 and "a@v2" in error
    assert not (run_dir / "eval").exists()


@pytest.mark.parametrize("option", ["--runs-dir", "--inspect-log"])
def test_where_nothing_can_be_written_nobody_is_asked(
    opcod_eval: Eval, run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    taken = {"--runs-dir": run_dir / "eval", "--inspect-log": tmp_path / "logs"}[option]
    taken.write_text("")
    monkeypatch.setattr("opcod.commands.eval.require_inspect", lambda: None)
    code, said, error = opcod_eval("--student", "a", "--inspect-log", str(tmp_path / "logs"), *QUICK)
    assert (code, said) == (2, "")
    assert f"{option}: expected a directory that can be written to, {taken} is none" in " ".join(error.split())


def test_without_inspect_ai_the_log_is_refused_before_anything_runs(
    opcod_eval: Eval, run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "inspect_ai", None)
    code, _, error = opcod_eval("--student", "a", "--inspect-log", str(tmp_path / "logs"), *QUICK)
    assert (code, "pip install" in error) == (2, True), error
    assert not (run_dir / "eval").exists()
    assert not (tmp_path / "logs").exists()
