"""`opcod track`: a run's steps as traces, or its figures and exchanges in a tracker of experiments."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from opcod.local.deployment import Deployment, live_deployment
from opcod.local.signals import interruptible
from opcod.options import RUNS_DIR, RunsDir
from opcod.talk.exchanges import lasting_exchanges, run_directory
from opcod.tracking.sinks import SINKS
from opcod.tracking.trackers import OTLP, open_tracker
from services.inspector.store.from_files import stored_run
from services.inspector.store.records import LOGGED_EVENT, Gap
from shared.bus.redis import RedisBus
from shared.contracts.events import Event, StatusChanged
from shared.contracts.run import Status
from shared.errors import UnavailableError

PAGE = 500
POLL_S = 1.0
START = "0"
"""Before the first event."""

TO_HELP = (
    f"{OTLP}: traces, to where OTEL_EXPORTER_OTLP_ENDPOINT says, else to this machine's port 4318. "
    f"{', '.join(SINKS)}: figures and exchanges."
)
OVER = (Status.DONE.value, Status.FAILED.value)


def track(
    to: Annotated[str, typer.Option("--to", help=TO_HELP)],
    run_name: Annotated[
        str | None, typer.Option("--run", help="Default: the one that is up, or was begun last.")
    ] = None,
    exchanges: Annotated[int, typer.Option("--exchanges", min=0, max=200, help="Shown of each student's step.")] = 8,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Go on until the run ends, or Ctrl-C.")] = True,
    runs_dir: RunsDir = RUNS_DIR,
) -> None:
    """Send a run's traces, or figures and exchanges, to another tool; the run need not be up.

    Example: `opcod track --to tensorboard`
    """
    with ExitStack() as stack:
        interrupted = stack.enter_context(interruptible())
        try:
            deployment = live_deployment(runs_dir, run_name)
        except UnavailableError:
            run_dir = run_directory(runs_dir, run_name)
            events = _stored(run_dir)
        else:
            run_dir = runs_dir / deployment.run
            events = _live(deployment, run_dir, follow, interrupted)
        told = stack.enter_context(lasting_exchanges(runs_dir, run_dir.name))
        tracker = open_tracker(to, run_dir, told, exchanges)
        stack.callback(tracker.close)
        for event in events:
            tracker.take(event)
            if interrupted():
                break


def _live(deployment: Deployment, run_dir: Path, follow: bool, interrupted: Callable[[], bool]) -> Iterator[Event]:
    """The log of a run that is up; with `follow` until the run is over.

    Raises UnavailableError where the bus is gone before that, once all is told that the inspector has kept.
    """
    bus = RedisBus(deployment.bus_url(), deployment.run)
    cursor, over = START, False
    try:
        while not interrupted():
            try:
                page = bus.read_events(cursor, count=PAGE, block_s=0)
            except UnavailableError:
                # A run that is over stops its services at once, before everybody has read its end.
                for event in _stored(run_dir, cursor):
                    over = over or _ends(event)
                    yield event
                if not over:
                    raise
                return
            for _, event in page:
                # Noted and not acted on yet: events of the end may still follow it in the log.
                over = over or _ends(event)
                yield event
            if page:
                cursor = page[-1][0]
                continue
            if over or not follow:
                return
            time.sleep(POLL_S)
    finally:
        bus.close()


def _ends(event: Event) -> bool:
    return isinstance(event, StatusChanged) and event.status in OVER


def _stored(run_dir: Path, after: str = START) -> Iterator[Event]:
    """What the run's inspector kept of the log behind the event of this id."""
    with stored_run(run_dir) as store:
        position = 0 if after == START else store.position_of(after)
        while page := store.events_after(position, PAGE):
            for row in page:
                event = LOGGED_EVENT.validate_json(row.body)
                if not isinstance(event, Gap):
                    yield event
            position = page[-1].position
