"""`opcod export`: whatever cannot be exported is refused in words before a model is loaded, and nothing is written."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch")

from opcod.export.writing import choose, require_new, require_room
from opcod.planning import disk
from opcod.planning.disk import held_bytes
from shared.config.settings import Paths
from shared.contracts.models import PreparedModel, model_file
from shared.contracts.run import Status
from tests.fakes.command import call_opcod
from tests.unit.modeling.tiny_model import write_tiny_model
from tests.unit.opcod.published_run import done
from tests.unit.trainer.ground import RUN

Export = Callable[..., tuple[int, str]]
SIZE = 2 * 26_848
"""Of the base, in bf16."""


@pytest.fixture
def export(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Export:
    """Calls `opcod export` as a shell would; returns (exit code, stderr)."""

    def call(*arguments: str) -> tuple[int, str]:
        places = ("--runs-dir", str(runs), "--cache-dir", str(tmp_path / "cache"))
        code = call_opcod(monkeypatch, "export", *arguments, *places)
        return code, capsys.readouterr().err

    return call


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nobody", "--student", "a"), f"the runs there: {RUN}"),
        ((RUN, "--student", "c"), "--student: expected one of a, b, got 'c'"),
        ((RUN, "--student", "a", "--version", "v9"), "expected a published version of student a (a@v1 to a@v2)"),
        ((RUN, "--student", "a", "--version", "b@v1"), "expected a published version of student a"),
        ((RUN, "--student", "b"), "expected a run that has trained student b, r1 is DONE and has not yet"),
        ((RUN, "--student", "a", "--version", "v0", "--adapter"), "a@v0 is a whole model"),
        ((RUN, "--student", "a", "--push", "model"), "--push: expected owner/name, got 'model'"),
    ],
)
def test_what_cannot_be_exported_is_said(
    export: Export, runs: Path, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    done(runs)
    code, error = export(*arguments, str(tmp_path / "out"))
    assert (code, said in error) == (2, True), error
    assert not (tmp_path / "out").exists()


def test_what_the_run_hands_on_is_exported_and_not_the_newest(runs: Path, tmp_path: Path) -> None:
    """As `run.keep_best` leaves it."""
    done(runs, version={"a": "a@v1", "b": "b@v0"})
    paths = Paths(runs_dir=runs, run=RUN, cache_dir=tmp_path)
    assert choose(paths, "a", None, merge=True, repository=None).version == "a@v1"
    assert choose(paths, "a", "v2", merge=True, repository=None).version == "a@v2"


def test_a_run_that_has_not_begun_and_one_that_trains_say_how_far_they_are(
    export: Export, runs: Path, tmp_path: Path
) -> None:
    code, error = export(RUN, "--student", "a", str(tmp_path / "out"))
    assert (code, "expected a run that has begun" in error) == (2, True), error
    done(runs, status=Status.TRAINING, version={"a": "a@v0", "b": "b@v0"})
    code, error = export(RUN, "--student", "a", str(tmp_path / "out"))
    assert (code, "r1 is TRAINING and has not yet" in error) == (2, True), error
    assert not (tmp_path / "out").exists()


def test_scripted_students_have_no_model(export: Export, runs: Path, tmp_path: Path) -> None:
    config = done(runs) / "config.toml"
    config.write_text(config.read_text().replace('engine = "transformers"', 'engine = "scripted"'))
    code, error = export(RUN, "--student", "a", str(tmp_path / "out"))
    assert (code, "answers from a script" in error) == (2, True), error


def test_damaged_and_pruned_versions_are_not_exported(export: Export, runs: Path, tmp_path: Path) -> None:
    run_dir = done(runs)
    file = run_dir / "weights/a/v000001/adapter_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    code, error = export(RUN, "--student", "a", "--version", "v1", str(tmp_path / "out"))
    assert (code, "a@v1 is not what was published" in error) == (74, True), error
    file.unlink()
    (file.parent / "pruned").touch()
    code, error = export(RUN, "--student", "a", "--version", "v1", str(tmp_path / "out"))
    assert (code, "`opcod replay r1 --student a --until v1 --into <name>`" in error) == (2, True), error
    assert not (tmp_path / "out").exists()


def test_where_no_directory_can_appear_nothing_is_merged(
    export: Export, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done(runs)
    (tmp_path / "volume").mkdir()
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(os.path, "ismount", lambda path: path == tmp_path / "volume")
    for place, said in {
        "volume": "volume is a mount point: name one below it",
        "file/below": "DIR: expected a directory that can be written to",
    }.items():
        code, error = export(RUN, "--student", "a", str(tmp_path / place))
        assert (code, said in error) == (2, True), error
    require_new(tmp_path / "volume" / "in" / "it")


def test_a_disk_without_room_for_it_is_named_before_anything_is_merged(
    export: Export, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done(runs)
    model = model_file(runs / RUN, "a")
    model.parent.mkdir()
    base = write_tiny_model(tmp_path / "tiny")
    model.write_text(PreparedModel(path=base, sha256="0" * 64).model_dump_json())
    adapter = held_bytes(runs / RUN / "weights/a/v000002")
    # An adapter's base is written beside it, as it was made here.
    for how, wanted in {"--merge": SIZE, "--adapter": SIZE + adapter}.items():
        monkeypatch.setattr(disk, "free_under", lambda _, wanted=wanted: wanted - 1)
        code, error = export(RUN, "--student", "a", how, str(tmp_path / "out"))
        assert (code, f"GB free under {tmp_path}, found" in error) == (2, True), error
        monkeypatch.setattr(disk, "free_under", lambda _, wanted=wanted: wanted)
        paths = Paths(runs_dir=runs, run=RUN, cache_dir=tmp_path)
        chosen = choose(paths, "a", None, merge=how == "--merge", repository=None)
        require_room(paths, chosen, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_directory_that_holds_something_is_left_alone(
    export: Export, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done(runs)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for place in ("full", "file", "here"):
        code, error = export(RUN, "--student", "a", str(tmp_path / place))
        assert (code, "expected a directory that is new or empty" in error) == (2, True), error
    assert (tmp_path / "full" / "mine").read_text() == (tmp_path / "file").read_text() == "mine"
