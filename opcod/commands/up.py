"""`opcod up`: serve a run's latest weights, or the students of some settings before training, until stopped."""

import time
from typing import Annotated

import typer

from opcod.local.deployment import refuse_elsewhere, run_lock
from opcod.local.launcher import Launcher
from opcod.local.progress import make_console, tell
from opcod.local.signals import interruptible
from opcod.options import (
    CACHE_DIR,
    RUNS_DIR,
    CacheDir,
    ConfigFile,
    Overrides,
    Preset,
    RunsDir,
)
from opcod.prepare.checks import served_settings
from opcod.prepare.models import prepare_models
from opcod.talk.client import page_of

POLL_S = 1.0


def up(
    run_name: Annotated[
        str | None,
        typer.Argument(metavar="RUN", help="Default: the run begun last; with settings: a new run, not trained."),
    ] = None,
    preset: Preset = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    runs_dir: RunsDir = RUNS_DIR,
    cache_dir: CacheDir = CACHE_DIR,
) -> None:
    """Serve (chat, ask, inspector) until Ctrl-C: a run's latest weights, or students before training.

    With settings and no such run yet, students are served before training; `opcod run --resume` then trains them.
    """
    refuse_elsewhere("`opcod up`")
    console = make_console()
    paths, settings = served_settings(runs_dir, run_name, cache_dir, preset, config, overrides)
    with run_lock(paths.run_dir), interruptible() as interrupted:
        prepare_models(paths, settings, lambda what: tell(console, f"preparing: {what}"), interrupted, purpose="up")
        launcher = Launcher(paths, settings, "up", interrupted)
        try:
            deployment = launcher.start(lambda what: tell(console, f"starting: {what}"))
            assert deployment.broker is not None
            tell(console, f"run {paths.run} is up: {deployment.broker.url}; stop with Ctrl-C")
            tell(console, f"its page: {page_of(deployment)}")
            while not interrupted():
                for name in launcher.watch():
                    tell(console, f"{name} ended and was started again")
                time.sleep(POLL_S)
        finally:
            launcher.stop()
