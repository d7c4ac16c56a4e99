"""`opcod prepare`: what a run's services must find when they are started one by one, in containers or a cluster."""

import json
from pathlib import Path
from typing import Annotated

import typer

from opcod.checking import check_settings
from opcod.deployment import ensure_key, run_lock
from opcod.engines import write_engines
from opcod.options import (
    CACHE_DIR,
    RUNS_DIR,
    CacheDir,
    ConfigFile,
    Overrides,
    RunsDir,
    paths_for,
    settings_from,
)
from opcod.preparing import create_run, prepare_models, refuse_changes, stored_settings
from opcod.problem_manifest import pin_problems
from shared.access import read_keys
from shared.blobs.local import atomic_write
from shared.config.settings import Paths, RunSettings

PREPARED_FILE = "prepared.json"


def prepare(
    run_name: Annotated[str, typer.Option("--run", envvar="OPCOD_RUN", help="Name of the run.")],
    preset: Annotated[
        str | None, typer.Option("--preset", envvar="OPCOD_PRESET", help="Settings to begin with; default: laptop.")
    ] = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    runs_dir: RunsDir = RUNS_DIR,
    cache_dir: CacheDir = CACHE_DIR,
    key_file: Annotated[
        Path | None,
        typer.Option("--key-file", envvar="OPCOD_KEY_FILE", help="The bearer keys; default: some made in the run."),
    ] = None,
) -> None:
    """Write config.toml, the keys and the models of a run; `prepared.json` comes last and says that all is there.

    Doing it again changes nothing. Other settings for a run that is there are refused.
    """
    settings = settings_from(preset, config, overrides)
    paths = paths_for(runs_dir, run_name, cache_dir)
    check_settings(paths, settings)
    paths.run_dir.mkdir(parents=True, exist_ok=True)
    with run_lock(paths.run_dir):
        _settle(paths, settings)
        (paths.run_dir / PREPARED_FILE).unlink(missing_ok=True)
        read_keys(key_file or ensure_key(paths.run_dir))
        seconds = prepare_models(paths, settings, lambda what: typer.echo(f"preparing: {what}"))
        write_engines(paths, settings)
        atomic_write(paths.run_dir / PREPARED_FILE, json.dumps({"seconds": seconds}).encode())
    typer.echo(f"prepared: {paths.run_dir}")


def _settle(paths: Paths, settings: RunSettings) -> None:
    if (paths.run_dir / "config.toml").exists():
        refuse_changes(stored_settings(paths), settings)
    else:
        create_run(paths, settings)
    pin_problems(paths, settings)
