"""`opcod feedback`: what the peers say to each other, as it happens."""

import time
from collections import deque
from collections.abc import Iterator
from typing import Annotated

import typer

from opcod.deployment import live_deployment
from opcod.interrupting import interruptible
from opcod.options import RUNS_DIR, ConfigFile, Overrides, Preset, RunsDir
from opcod.progress import warning
from shared.bus.redis import RedisBus
from shared.contracts.events import Event

SHOWN = ("feedback", "revised", "alarm", "silenced")
PAGE = 200
POLL_S = 1.0

app = typer.Typer(help="What the peers say to each other.", no_args_is_help=True)


@app.callback()
def feedback() -> None:
    """What the peers say to each other."""


@app.command("tail")
def tail(
    run_name: Annotated[str | None, typer.Option("--run", help="Default: the one that is up.")] = None,
    last: Annotated[int, typer.Option("--last", min=0, help="Begin with this many that were said before.")] = 10,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Go on until Ctrl-C.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    preset: Preset = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    runs_dir: RunsDir = RUNS_DIR,
) -> None:
    """Follow the feedback and the revisions of a run that is up, and what is wrong with them."""
    del preset, config, overrides  # a run brings its settings; the options are there as in every command
    deployment = live_deployment(runs_dir.resolve(), run_name)
    bus = RedisBus(deployment.redis_url, deployment.run)
    log = ExchangeLog(bus)
    for event in deque(log.new(), maxlen=last):
        _show(event, as_json)
    with interruptible() as interrupted:
        while follow and not interrupted():
            for event in log.new():
                _show(event, as_json)
            time.sleep(POLL_S)
    bus.close()


class ExchangeLog:
    """Feedback, revisions and warnings in the run's log, each once."""

    def __init__(self, bus: RedisBus) -> None:
        self._bus = bus
        self._cursor = "0"

    def new(self) -> Iterator[Event]:
        """Those that came since the last call, in order."""
        while page := self._bus.read_events(self._cursor, count=PAGE, block_s=0):
            self._cursor = page[-1][0]
            yield from (event for _, event in page if event.kind in SHOWN)


def _show(event: Event, as_json: bool) -> None:
    typer.echo(event.model_dump_json() if as_json else describe(event))


def describe(event: Event) -> str:
    """One event on a few lines."""
    if event.kind == "feedback":
        mark = "right" if event.correct else "wrong"
        head = f"r{event.round} {event.student} step {event.step} {event.problem_id}#{event.sample} ({mark})"
        said = (event.raw or "").strip() or "(nothing)"
        return f"{head} <- {event.tutor} [{event.verdict}]\n  {event.response.strip()}\n  {said}"
    if event.kind == "revised":
        head = f"r{event.round} {event.student} step {event.step} {event.problem_id}#{event.sample}"
        return f"{head} revised: {event.change}\n  {event.text.strip()}"
    if event.kind == "alarm" or event.kind == "silenced":
        return warning(event)
    return event.kind
