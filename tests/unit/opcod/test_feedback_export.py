"""Where `opcod feedback export --out` writes to: a file whole or not at all, and what is no file stays what it is."""

import os
from pathlib import Path

import pytest

from tests.fakes.bundled import HOSTILE, write_run
from tests.fakes.command import call_opcod

RUN = "r1"
LINES = len(HOSTILE) + 1


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    write_run(tmp_path / "runs" / RUN)
    return tmp_path / "runs"


def export(monkeypatch: pytest.MonkeyPatch, runs: Path, out: Path) -> int:
    return call_opcod(monkeypatch, "feedback", "export", "--run", RUN, "--runs-dir", str(runs), "--out", str(out))


def test_a_named_pipe_is_written_to_and_stays_one(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    # Both ends: neither waits for the other, and what is written fits in the pipe.
    reader = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    assert export(monkeypatch, runs, pipe) == 0
    assert os.read(reader, 1 << 16).count(b"\n") == LINES
    os.close(reader)
    assert pipe.is_fifo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pipe", "runs"]


def test_a_link_leads_to_the_file_that_is_written(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    kept, link = tmp_path / "elsewhere" / "kept.jsonl", tmp_path / "link.jsonl"
    kept.write_text("before")
    link.symlink_to(kept)
    assert export(monkeypatch, runs, link) == 0
    assert link.is_symlink()
    assert kept.read_bytes().count(b"\n") == LINES
    assert [path.name for path in kept.parent.iterdir()] == ["kept.jsonl"]


def test_no_file_of_another_name_is_touched(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out.jsonl.part").write_text("somebody else's")
    assert export(monkeypatch, runs, tmp_path / "out.jsonl") == 0
    assert (tmp_path / "out.jsonl.part").read_text() == "somebody else's"


def test_a_directory_is_refused(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(monkeypatch, runs, tmp_path) == 2
    assert f"--out: cannot write {tmp_path}: Is a directory" in capsys.readouterr().err


def test_how_much_was_found_is_said_beside_it(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    for asked, count in (((), LINES), (("--filter", "round=77"), 0)):
        arguments = ("export", "--run", RUN, "--runs-dir", str(runs), *asked)
        assert call_opcod(monkeypatch, "feedback", *arguments) == 0
        out, said = capsysbinary.readouterr()
        assert out.count(b"\n") == count
        assert said == f"written: {count} exchanges to standard output\n".encode()
