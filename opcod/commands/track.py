"""`opcod track`: a run's steps as traces, or its figures in a tracker of experiments."""

import time
from typing import Annotated

import typer

from opcod.local.deployment import live_deployment
from opcod.local.signals import interruptible
from opcod.options import RUNS_DIR, RunsDir
from opcod.tracking import OTLP, TRACKERS, open_tracker
from shared.bus.redis import RedisBus
from shared.contracts.events import StatusChanged
from shared.contracts.run import Status

PAGE = 500
POLL_S = 1.0
TO_HELP = (
    f"{OTLP}: traces, to where OTEL_EXPORTER_OTLP_ENDPOINT says, else to this machine's port 4318. "
    f"{' or '.join(TRACKERS)}: figures."
)
OVER = (Status.DONE.value, Status.FAILED.value)


def track(
    to: Annotated[str, typer.Option("--to", help=TO_HELP)],
    run_name: Annotated[str | None, typer.Option("--run", help="Default: the one that is up.")] = None,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Go on until the run ends, or Ctrl-C.")] = True,
    runs_dir: RunsDir = RUNS_DIR,
) -> None:
    """Send a run's events elsewhere, from the oldest that its log still has."""
    deployment = live_deployment(runs_dir.resolve(), run_name)
    tracker = open_tracker(to, deployment.run)
    bus = RedisBus(deployment.bus_url(), deployment.run)
    cursor, over = "0", False
    try:
        with interruptible() as interrupted:
            while not interrupted():
                page = bus.read_events(cursor, count=PAGE, block_s=0)
                for _, event in page:
                    tracker.take(event)
                    # Noted and not acted on yet: events of the end may still follow it in the log.
                    over = over or (isinstance(event, StatusChanged) and event.status in OVER)
                if page:
                    cursor = page[-1][0]
                    continue
                if over or not follow:
                    break
                time.sleep(POLL_S)
    finally:
        tracker.close()
        bus.close()
