"""`opcod feedback`: the same exchanges while an inspector is up and from the files, and acting on them."""

import json
from pathlib import Path

import pytest
from pyarrow import parquet
from typer.testing import CliRunner, Result

from opcod.local.deployment import run_lock
from opcod.main import app as opcod
from services.inspector.config import STORE
from tests.fakes.broker import RUN
from tests.fakes.inspected import Stand


def command(stand: Stand, *words: str) -> Result:
    return CliRunner().invoke(opcod, ["feedback", *words, "--runs-dir", str(stand.bench.run_dir.parent)])


def test_the_command_line_does_the_same_while_it_is_up_and_shows_it_afterwards(stand: Stand, tmp_path: Path) -> None:
    [first, second, _] = [str(item["key"]) for item in stand.exchanges()]
    with run_lock(stand.bench.run_dir):
        silence = ("silence", "b", "nonsense", "--student", "a")
        for words in (("exclude", first, "wrong formula"), ("flag", second, "look here"), silence):
            done = command(stand, *words)
            assert done.exit_code == 0, done.output
            assert "asked for" in done.output
        stand.bench.turn()
        refused = command(stand, "exclude", first, "again")
        assert refused.exit_code == 1
        assert "is sealed" in str(refused.exception), "a silent tutor is not waited for"
        stand.bench.students["b"].held.clear()
        stand.bench.finish()
        stand.see()
        shown = command(stand, "show", first).output
        assert "a person excluded it" in shown and "wrong formula" in shown and "not trained yet" in shown
        tail = command(stand, "tail", "--no-follow", "--last", "200").output
        assert (
            f"exclude {first}, admin key" in tail
            and "SILENCED tutor b for student a, rest of round 1, by admin" in tail
        )
        assert command(stand, "export", "--out", str(tmp_path / "up.parquet"), "--format", "parquet").exit_code == 0
        live = command(stand, "export", "--filter", "acted=flag").stdout
    down = command(stand, "export", "--filter", "acted=flag").stdout
    assert down == live
    assert [json.loads(line)["key"] for line in down.splitlines()] == [second]
    rows = parquet.read_table(tmp_path / "up.parquet").to_pylist()
    assert {row["key"] for row in rows if row["withheld"]} == {first}
    assert f"{first} (round 1" in command(stand, "tail", "--run", RUN, "--last", "200").output


def test_without_an_inspectors_log_the_files_of_the_run_are_read(stand: Stand) -> None:
    [first, *_] = [str(item["key"]) for item in stand.exchanges()]
    with run_lock(stand.bench.run_dir):
        command(stand, "exclude", first, "wrong formula")
        stand.bench.turn()
    stand.let_the_other_group_through()
    stand.bench.finish()
    stand.see()
    kept = [json.loads(line) for line in command(stand, "export", "--filter", "student=a").stdout.splitlines()]
    (stand.bench.run_dir / STORE).rename(stand.bench.run_dir / "elsewhere")
    made = [json.loads(line) for line in command(stand, "export", "--filter", "student=a").stdout.splitlines()]

    def known(rows: list[dict[str, object]]) -> list[dict[str, object]]:
        by_key = sorted(rows, key=lambda row: str(row["key"]))
        return [{name: value for name, value in row.items() if name not in ("id", "at", "revision")} for row in by_key]

    assert known(made) == known(kept)
    assert "wrong formula" in command(stand, "show", first).output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("show", "nonsense"), "expected an exchange such as"),
        (("show", "a.s1.nobody.0"), "there is no exchange a.s1.nobody.0"),
        (("export", "--filter", "tutorr=b"), "expected name=value with a name of round, step"),
        (("export", "--filter", "round=x"), "--filter round"),
        (("export", "--filter", "verdict=blah"), "--filter verdict: expected one of match, unanchored,"),
        (("export", "--filter", "verdict"), "--filter: expected name=value, such as verdict=no_match, got 'verdict'"),
        (("export", "--out", "/nowhere/at/all.jsonl"), "cannot write /nowhere/at/all.jsonl"),
        (("flag", "nonsense", "x"), "expected an exchange such as"),
        (("flag", "a.s1.p.0", ""), "REASON: String should have at least 1 character, got ''"),
        (("show", "a.s1.p.0", "--run", "other"), "found none; the runs there: test"),
    ],
)
def test_bad_input_is_named(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    run_dir = tmp_path / RUN
    run_dir.mkdir()
    (run_dir / "config.toml").write_text("")
    (run_dir / "state.json").write_text("{}")
    done = CliRunner().invoke(opcod, ["feedback", *words, "--runs-dir", str(tmp_path)])
    assert message in str(done.exception), done.output
    assert getattr(done.exception, "exit_code", None) == 2
