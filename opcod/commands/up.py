"""`opcod up`: serve the latest weights of a run, without training, until stopped."""

import time
from typing import Annotated

import typer
from rich.console import Console

from opcod.deployment import latest_run, refuse_elsewhere, run_lock
from opcod.interrupting import interruptible
from opcod.launcher import Launcher
from opcod.options import (
    CACHE_DIR,
    RUNS_DIR,
    CacheDir,
    ConfigFile,
    Overrides,
    Preset,
    RunsDir,
    paths_for,
)
from opcod.page import page_address
from opcod.preparing import kept_settings, prepare_models

POLL_S = 1.0


def up(
    run_name: Annotated[str | None, typer.Argument(metavar="RUN", help="Default: the run begun last.")] = None,
    preset: Preset = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    runs_dir: RunsDir = RUNS_DIR,
    cache_dir: CacheDir = CACHE_DIR,
) -> None:
    """Serve a run's latest weights (chat, ask, inspector) until Ctrl-C."""
    refuse_elsewhere("`opcod up`")
    console = Console()
    paths = paths_for(runs_dir, run_name or latest_run(runs_dir), cache_dir)
    settings = kept_settings(paths, preset, config, overrides)
    with run_lock(paths.run_dir), interruptible() as interrupted:
        prepare_models(paths, settings, lambda what: console.print(f"preparing: {what}"))
        launcher = Launcher(paths, settings, "up", interrupted)
        try:
            deployment = launcher.start(lambda what: console.print(f"starting: {what}", highlight=False))
            assert deployment.broker is not None
            console.print(f"run {paths.run} is up: {deployment.broker.url}; stop with Ctrl-C", highlight=False)
            console.print(f"its page: {page_address(deployment)}", highlight=False, soft_wrap=True)
            while not interrupted():
                for name in launcher.watch():
                    console.print(f"{name} ended and was started again", highlight=False)
                time.sleep(POLL_S)
        finally:
            launcher.stop()
