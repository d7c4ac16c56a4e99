"""Files that nobody may look at: said in a line, with the file's name. Tests run as root, to whom all is allowed: the
system's refusal is put in its place."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opcod.commands.prepare import ERROR_FILE, _outcome
from opcod.planning.plan import plan_run
from shared.config.loading import load_settings
from shared.config.settings import Paths
from shared.errors import ModelError, ProblemSetError, file_fault
from shared.modeling.resolving import find_model, resolve_model
from shared.problems.loading import dataset_directory, load_problem_set
from tests.fakes.command import call_opcod

SCRIPTED = ("--set", "students.a.engine=scripted", "--set", "students.b.engine=scripted")


@pytest.fixture
def closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory into which nobody may look."""
    directory = tmp_path / "closed"
    (directory / "inner").mkdir(parents=True)

    def refusing(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *arguments: Any, **options: Any) -> Any:
            if str(path).startswith(f"{directory}/"):
                raise PermissionError(13, "Permission denied", str(path))
            return real(path, *arguments, **options)

        return call

    for name in ("stat", "lstat", "open", "scandir", "listdir"):
        monkeypatch.setattr(os, name, refusing(getattr(os, name)))
    return directory


@pytest.mark.parametrize("look", [find_model, resolve_model])
def test_a_model_that_nobody_may_look_at_is_no_model(
    closed: Path, tmp_path: Path, look: Callable[[str, Path], Path | None]
) -> None:
    for name in (closed, closed / "inner"):
        with pytest.raises(ModelError, match="Permission denied"):
            look(str(name), tmp_path)


def test_problems_that_nobody_may_look_at_are_none(closed: Path) -> None:
    with pytest.raises(ProblemSetError, match=r"train\.jsonl: expected this file.*Permission denied"):
        load_problem_set(str(closed), "mcq")
    with pytest.raises(ProblemSetError, match="Permission denied"):
        dataset_directory(str(closed), ["optics/train.json"])


def test_a_file_of_the_system_is_one_line(
    closed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call_opcod(monkeypatch, "status", "--runs-dir", str(closed / "inner")) == 74
    told = capsys.readouterr().err
    assert told.startswith(f"error: expected to use {closed}/") and told.count("\n") == 1, told
    assert "correct its permissions" in told


def test_a_plan_notes_it_and_goes_on(closed: Path, tmp_path: Path) -> None:
    settings = load_settings(preset="smoke", overrides=SCRIPTED[1::2], environ={})
    planned = plan_run(Paths(runs_dir=closed / "inner", run="r1", cache_dir=tmp_path), settings)
    assert [each for each in planned.missing if "Permission denied" in each]
    assert planned.work


def test_a_preparation_keeps_it_for_those_who_wait(tmp_path: Path) -> None:
    paths = Paths(runs_dir=tmp_path, run="r1", cache_dir=tmp_path)
    paths.run_dir.mkdir()
    with pytest.raises(PermissionError), _outcome(paths):
        raise PermissionError(13, "Permission denied", "/x")
    assert (paths.run_dir / ERROR_FILE).read_text().startswith("expected to use /x, the system says: Permission denied")


def test_an_error_of_no_file_is_none_of_these() -> None:
    assert file_fault(OSError("no route")) is None
    assert file_fault(OSError(28, "No space left on device", "/x")) == (
        "expected to use /x, the system says: No space left on device"
    )
