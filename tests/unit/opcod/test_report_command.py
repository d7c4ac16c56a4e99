"""`opcod report`: the report of a run without a launcher, from its directory alone."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from opcod.commands.report import wait_for_end
from opcod.main import app
from opcod.report.text import PICTURES
from shared.config.loading import to_toml
from shared.contracts.run import STATE_FILE, Status
from shared.errors import EXIT_INTERRUPTED, ConfigError, StoppedError
from shared.results.report import Report
from tests.fakes.final_state import final_state, settings

RUN = "r1"
SECONDS = {"VALIDATING": 6.0, "TRAINING": 30.0, "FINAL_EVAL": 4.0}


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    directory = tmp_path / RUN
    directory.mkdir()
    (directory / "config.toml").write_text(to_toml(settings()))
    return directory


def write_state(run_dir: Path, **changes: Any) -> None:
    state = final_state(run=RUN, status_seconds=SECONDS, **changes)
    (run_dir / STATE_FILE).write_text(state.model_dump_json())


def reported(run_dir: Path, *words: str) -> Result:
    return CliRunner().invoke(app, ["report", RUN, "--runs-dir", str(run_dir.parent), *words])


def stored(run_dir: Path) -> Report:
    return Report.model_validate_json((run_dir / "report" / "report.json").read_bytes())


def test_a_run_that_is_done_gets_the_whole_report_and_its_time_is_that_of_its_statuses(run_dir: Path) -> None:
    write_state(run_dir)
    done = reported(run_dir)
    assert done.exit_code == 0, done.output
    assert "Student a improved" in done.output and "report.md" in done.output
    assert {path.name for path in (run_dir / "report").iterdir()} == {"report.json", "report.md", *PICTURES}
    report = stored(run_dir)
    assert (report.finished, report.wall_s, report.accounted_share) == (True, sum(SECONDS.values()), 1.0)


def test_time_of_launchers_counts_where_there_were_some(run_dir: Path) -> None:
    write_state(run_dir)
    (run_dir / "timeline.json").write_text(json.dumps({"wall": 50.0, "loading models": 5.0}))
    reported(run_dir)
    report = stored(run_dir)
    assert (report.wall_s, report.stages[0].name, report.stages[0].share) == (50.0, "loading models", 0.1)


def test_what_a_launcher_wrote_at_the_end_stays_and_what_is_unfinished_is_written_anew(run_dir: Path) -> None:
    write_state(run_dir, status=Status.TRAINING)
    assert "not finished (TRAINING)" in reported(run_dir).output
    path = run_dir / "report" / "report.json"
    path.write_text(stored(run_dir).model_copy(update={"restarts": {"student-a": 2}}).model_dump_json())
    write_state(run_dir)
    assert "Student a improved" in reported(run_dir).output
    assert stored(run_dir).restarts == {"student-a": 2}
    path.write_text(stored(run_dir).model_copy(update={"wall_s": 1234.0}).model_dump_json())
    reported(run_dir)
    assert stored(run_dir).wall_s == 1234.0


def test_a_run_that_has_not_begun_and_one_that_is_not_there_are_named(run_dir: Path) -> None:
    for directory, said in ((run_dir, "a run that has begun"), (run_dir / "x", "expected a run at")):
        refused = reported(directory)
        assert isinstance(refused.exception, ConfigError) and said in str(refused.exception)
    assert not (run_dir / "report").exists()


def test_it_waits_for_the_end_however_often_the_run_is_paused(run_dir: Path) -> None:
    asked: list[int] = []

    def stopped() -> bool:
        """The run goes on while it is asked."""
        asked.append(len(asked))
        match asked[-1]:
            case 1:
                write_state(run_dir, status=Status.TRAINING)
            case 2:
                write_state(run_dir, status=Status.TRAINING, paused="lunch")
            case 3:
                write_state(run_dir)
        return False

    wait_for_end(run_dir, stopped, poll_s=0.0)
    assert asked == [0, 1, 2, 3]
    write_state(run_dir, status=Status.FAILED, failed="enough")
    wait_for_end(run_dir, lambda: True, poll_s=0.0)
    assert reported(run_dir, "--wait").exit_code == 0
    assert "not finished (FAILED: enough)" in reported(run_dir).output


def test_one_that_is_stopped_while_it_waits_says_so_and_is_to_be_started_again(run_dir: Path) -> None:
    with pytest.raises(StoppedError, match="the end of run r1") as stopped:
        wait_for_end(run_dir, lambda: True, poll_s=0.0)
    assert stopped.value.exit_code == EXIT_INTERRUPTED
