"""A run that is served without training, as `opcod up` does: real processes, students that answer from a script."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from opcod.local.deployment import Deployment, run_lock
from opcod.local.launcher import Launcher
from opcod.prepare.run_directory import create_run
from shared.config.settings import Paths
from tests.fakes.deployment import scripted_settings
from tests.fakes.forked import fork


@contextmanager
def served_run(runs_dir: Path, *overrides: str) -> Iterator[Deployment]:
    """Up while in the block."""
    paths = Paths(runs_dir=runs_dir, run="served", cache_dir=runs_dir)
    settings = scripted_settings("bus.heartbeat_s=0.2", *overrides)
    create_run(paths, settings)
    with run_lock(paths.run_dir):
        launcher = Launcher(paths, settings, "up", start_process=fork)
        try:
            yield launcher.start(lambda _: None)
        finally:
            launcher.stop()
