"""Paths on the command line: `~` is a home however it comes there."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import typer
from typer.models import ArgumentInfo, OptionInfo

from opcod.main import app
from tests.fakes.command import call_opcod


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of somebody who works in another directory."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_keys_lie_below_the_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call_opcod(monkeypatch, "keys", "~/k") == 0
    assert (home / "k" / "redis.acl").is_file()
    assert not (home / "elsewhere" / "~").exists()


@pytest.mark.parametrize("by", ["option", "environment"])
def test_runs_lie_below_the_home(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], by: str
) -> None:
    monkeypatch.setenv("OPCOD_RUNS_DIR", "~/runs" if by == "environment" else "/nowhere")
    option = ["--runs-dir=~/runs"] if by == "option" else []
    assert call_opcod(monkeypatch, "report", "r1", *option) == 2
    assert str(home / "runs") in capsys.readouterr().err


def test_where_there_is_no_home_nothing_is_made(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (("keys", "~nobody-here/k"), ("report", "r1", "--runs-dir=~nobody-here/runs")):
        assert call_opcod(monkeypatch, *arguments) == 2
        assert "~nobody-here" in capsys.readouterr().err
    assert not list((home / "elsewhere").iterdir())


def named_paths(group: typer.Typer) -> Iterator[tuple[str, OptionInfo | ArgumentInfo]]:
    for command in group.registered_commands:
        assert command.callback is not None
        for name, hint in inspect.get_annotations(command.callback, eval_str=True).items():
            for info in get_args(hint)[1:]:
                if Path in (get_args(hint)[0], *get_args(get_args(hint)[0])):
                    yield f"{command.name} {name}", info
    for below in group.registered_groups:
        assert below.typer_instance is not None
        yield from named_paths(below.typer_instance)


def test_every_path_of_every_command_may_begin_with_a_home() -> None:
    found = dict(named_paths(app))
    assert len(found) > 30
    # Those two are expanded where they are read: a cache directory has a default that may need no home.
    left = {name for name, info in found.items() if info.parser is None}
    assert {name.split()[-1] for name in left} <= {"cache_dir", "config"}, left
