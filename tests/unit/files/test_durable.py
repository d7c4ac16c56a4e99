"""A directory appears whole or not at all."""

from pathlib import Path

import pytest

from shared.errors import WriteError
from shared.files.durable import new_directory


def test_it_is_there_once_all_of_it_is(tmp_path: Path) -> None:
    target = tmp_path / "made" / "here"
    with new_directory(target) as directory:
        (directory / "inner").mkdir()
        (directory / "inner" / "file").write_text("whole")
        assert not target.exists()
    assert (target / "inner" / "file").read_text() == "whole"
    assert list(target.parent.iterdir()) == [target]


def test_an_empty_one_is_taken_and_a_full_one_left(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    with new_directory(target) as directory:
        (directory / "file").write_text("first")
    with pytest.raises(WriteError, match="target"), new_directory(target) as directory:
        (directory / "file").write_text("second")
    assert [path.read_text() for path in target.iterdir()] == ["first"]
    assert list(tmp_path.iterdir()) == [target]


def test_what_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), new_directory(tmp_path / "target") as directory:
        (directory / "half").write_text("half")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
