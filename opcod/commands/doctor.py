"""`opcod doctor`: is this machine, and what is up on it, fit for a run; what to do about what is not."""

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from opcod.local.deployment import live_deployment
from opcod.local.examining import Finding, examine_deployment, examine_machine
from opcod.options import (
    CACHE_DIR,
    RUNS_DIR,
    CacheDir,
    ConfigFile,
    Overrides,
    Preset,
    RunsDir,
    paths_for,
    settings_from,
)
from shared.errors import UnavailableError

STYLES = {"ok": "green", "warn": "yellow", "bad": "red"}


def doctor(
    run_name: Annotated[str | None, typer.Option("--run", help="Default: the one that is up, if any.")] = None,
    preset: Preset = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    runs_dir: RunsDir = RUNS_DIR,
    cache_dir: CacheDir = CACHE_DIR,
) -> None:
    """Examine this machine for a preset, and the run that is up. Exit code 1 if something is bad."""
    settings = settings_from(preset, config, overrides)
    findings = examine_machine(paths_for(runs_dir, "doctor", cache_dir), settings)
    try:
        findings += examine_deployment(live_deployment(runs_dir.resolve(), run_name))
    except UnavailableError as error:
        findings.append(Finding("run", "ok" if run_name is None else "bad", str(error)))
    table = Table("what", "", "found")
    for finding in findings:
        table.add_row(Text(finding.what), Text(finding.state, style=STYLES[finding.state]), Text(finding.found))
    Console().print(table)
    if any(finding.state == "bad" for finding in findings):
        raise typer.Exit(1)
