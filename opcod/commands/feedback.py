"""`opcod feedback`: what the peers say to each other, as it happens."""

import time
from collections.abc import Iterator
from typing import Annotated

import typer

from opcod.deployment import live_deployment
from opcod.interrupting import interruptible
from opcod.options import RUNS_DIR, ConfigFile, Overrides, Preset, RunsDir
from shared.bus.redis import RedisBus
from shared.contracts.events import Event

PAGE = 200
BLOCK_S = 1.0

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
    """Follow the feedback and the revisions of a run that is up."""
    del preset, config, overrides  # a run brings its settings; the options are there as in every command
    deployment = live_deployment(runs_dir.resolve(), run_name)
    bus = RedisBus(deployment.redis_url, deployment.run)
    cursor = "0"
    before: list[Event] = []
    for cursor, event in _pages(bus, cursor):
        before = [*before, event][-last:] if last else []
    for event in before:
        _show(event, as_json)
    with interruptible() as interrupted:
        while follow and not interrupted():
            for cursor, event in _pages(bus, cursor):
                _show(event, as_json)
            time.sleep(BLOCK_S)
    bus.close()


def _pages(bus: RedisBus, after: str) -> Iterator[tuple[str, Event]]:
    """Feedback and revisions that are there now, in order, with the cursor behind each event."""
    while page := bus.read_events(after, count=PAGE, block_s=0):
        for after, event in page:
            if event.kind in ("feedback", "revised"):
                yield after, event


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
    return event.kind
