"""`opcod report`: a run's report, also of one that no `opcod run` is at."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from opcod.local.progress import make_console
from opcod.local.signals import interruptible
from opcod.options import CACHE_DIR, RUNS_DIR, RunsDir, paths_for
from opcod.report.text import print_report
from opcod.report.writing import current_report, report_directory, state_of
from opcod.talk.exchanges import run_directory
from shared.contracts.run import STATE_FILE, Status
from shared.errors import StoppedError

POLL_S = 1.0


def report(
    run_name: Annotated[
        str | None, typer.Argument(envvar="OPCOD_RUN", metavar="RUN", help="Default: the run begun last.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the run is done, or has failed.")] = False,
    runs_dir: RunsDir = RUNS_DIR,
) -> None:
    """Write a run's report into its directory and print it; of a run that is not done, the results so far.

    Scores before and after with intervals, gate, break-rate, alarms, times; report.md, report.json and pictures.
    """
    run_dir = run_directory(runs_dir, run_name)
    if wait:
        with interruptible() as interrupted:
            wait_for_end(run_dir, interrupted)
    console = make_console()
    print_report(current_report(paths_for(runs_dir, run_dir.name, CACHE_DIR)), console)
    console.print(f"report: {report_directory(run_dir) / 'report.md'}", soft_wrap=True)


def wait_for_end(run_dir: Path, stopped: Callable[[], bool], poll_s: float = POLL_S) -> None:
    """As long as the run takes, also while it is paused. Raises StoppedError once `stopped` says so."""
    while not _has_ended(run_dir):
        if stopped():
            raise StoppedError(f"stopped while waiting for the end of run {run_dir.name}")
        time.sleep(poll_s)


def _has_ended(run_dir: Path) -> bool:
    return (run_dir / STATE_FILE).exists() and state_of(run_dir).status in (Status.DONE, Status.FAILED)
