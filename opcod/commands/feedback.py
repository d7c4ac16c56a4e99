"""`opcod feedback`: what the peers say to each other, as it happens and afterwards, and acting on it.

`flag`, `exclude` and `silence` go through the broker of a run that is up; the others read.
"""

import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO, Literal
from urllib.parse import quote

import typer

from opcod.local.deployment import Deployment, live_deployment
from opcod.local.progress import act_line, warning
from opcod.local.signals import interruptible
from opcod.options import RUNS_DIR, RunsDir
from opcod.talk.client import Client, body_of
from opcod.talk.exchanges import filter_names, named_exchange, open_exchanges, read_filter
from opcod.talk.text import brief, on_one_line, revised, whole
from services.inspector.http.export import Format, Rows
from services.inspector.store.filters import ExchangeFilter
from shared.bus.redis import RedisBus
from shared.contracts.acting import Accepted, ExchangeRef, ReasonRequest, SilenceRequest
from shared.contracts.events import Event
from shared.errors import ConfigError, NotFoundError, UnavailableError
from shared.files.durable import temporary_name
from shared.files.text import expanded

RunName = Annotated[str | None, typer.Option("--run", help="Default: the one that is up.")]
Exchange = Annotated[str, typer.Argument(metavar="EXCHANGE", help="As `tail` names it: a.s3.ether-train-004.2.")]
Reason = Annotated[str, typer.Argument(metavar="REASON", help="Kept with it, for whoever reads the history.")]


SHOWN = ("feedback", "revised", "alarm", "silenced", "acted")
PAGE = 200
POLL_S = 1.0

app = typer.Typer(no_args_is_help=True)

AnyRun = Annotated[str | None, typer.Option("--run", help="Default: the one that is up, or was begun last.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
Filters = Annotated[
    list[str] | None,
    typer.Option(
        "--filter", help=f"name=value (verdict=no_match): which exchanges; may be repeated. Names: {filter_names()}."
    ),
]


@app.callback()
def feedback() -> None:
    """The tutors' feedback: follow it, look at one exchange, write a data set, or step in."""


@app.command("tail")
def tail(
    run_name: RunName = None,
    last: Annotated[int, typer.Option("--last", min=0, max=200, help="Begin with this many that were before.")] = 10,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Go on until Ctrl-C.")] = True,
    as_json: Json = False,
    runs_dir: RunsDir = RUNS_DIR,
) -> None:
    """Follow the feedback and the revisions of a run that is up, with alarms.

    If --run names a run that is not up, its last exchanges are shown.
    """
    try:
        deployment = live_deployment(runs_dir, run_name)
    except UnavailableError:
        if run_name is None:
            raise
        _show_stored(runs_dir, run_name, last, as_json)
        return
    _follow(deployment, last, follow, as_json)


@app.command("show")
def show(
    key: Exchange,
    run_name: AnyRun = None,
    as_json: Annotated[bool, typer.Option("--json", help="The exchange as JSON.")] = False,
    runs_dir: RunsDir = RUNS_DIR,
) -> None:
    """Show one exchange whole: texts, verdict, revision, history, and where the self-teacher disagreed."""
    with open_exchanges(runs_dir, run_name) as exchanges:
        exchange = named_exchange(exchanges, key)
        if as_json:
            typer.echo(exchange.model_dump_json())
            return
        try:
            typer.echo(whole(exchange, exchanges.trace(exchange)))
        # Most rollouts have no trace; why this one has none is a part of the answer.
        except NotFoundError as error:
            typer.echo(whole(exchange, str(error)))


@app.command("export")
def export(
    rows: Annotated[
        Rows,
        typer.Option(
            "--rows",
            help="exchanges; critiques: answer, feedback, revised answer; preferences: a right and a wrong rollout.",
        ),
    ] = "exchanges",
    format_: Annotated[Format, typer.Option("--format", help="parquet needs the extra `export`.")] = "jsonl",
    out: Annotated[
        Path | None, typer.Option("--out", parser=expanded, metavar="PATH", help="A file; default: standard output.")
    ] = None,
    filters: Filters = None,
    run_name: AnyRun = None,
    runs_dir: RunsDir = RUNS_DIR,
) -> None:
    """Write exchanges, critiques or preference pairs as a data set, oldest first; the run need not be up."""
    wanted = read_filter(filters or [])
    if out is None and sys.stdout.isatty() and format_ == "parquet":
        raise ConfigError("parquet is not for a terminal: name a file with --out, or send the output to one")
    with open_exchanges(runs_dir, run_name) as exchanges:
        pieces = exchanges.export(wanted, format_, rows)
        lines = 0
        with _target(out) as file:
            for piece in pieces:
                file.write(piece)
                lines += piece.count(b"\n")
    # Parquet has no lines, and how many rows it has stands in the file.
    count = f"{lines} {rows} to " if format_ == "jsonl" else ""
    if count or out is not None:
        typer.echo(f"written: {count}{out or 'standard output'}", err=True)


@app.command("flag")
def flag(key: Exchange, reason: Reason, run_name: RunName = None, runs_dir: RunsDir = RUNS_DIR) -> None:
    """Note something about an exchange; changes nothing in the run."""
    _act_on("flag", key, reason, run_name, runs_dir)


@app.command("exclude")
def exclude(key: Exchange, reason: Reason, run_name: RunName = None, runs_dir: RunsDir = RUNS_DIR) -> None:
    """Keep the feedback of an exchange out of training, while its batch is not sealed."""
    _act_on("exclude", key, reason, run_name, runs_dir)


@app.command("silence")
def silence(
    tutor: Annotated[str, typer.Argument(metavar="TUTOR", help="A student.")],
    reason: Reason,
    student: Annotated[
        str | None, typer.Option("--student", help="Silence it for this tutee only; default: for all.")
    ] = None,
    run_name: RunName = None,
    runs_dir: RunsDir = RUNS_DIR,
) -> None:
    """Do not ask a tutor any more in this round."""
    body = body_of(SilenceRequest, ["tutor", "reason"], tutor=tutor, reason=reason, student=student)
    client = Client(live_deployment(runs_dir, run_name))
    try:
        run = quote(client.run, safe="")
        accepted = client.broker("POST", f"/v1/runs/{run}/silence", Accepted, body)
    finally:
        client.close()
    typer.echo(f"asked for ({accepted.accepted}): tutor {tutor} falls silent for the rest of this round")


def _act_on(act: Literal["flag", "exclude"], key: str, reason: str, run_name: str | None, runs_dir: RunsDir) -> None:
    body = body_of(ReasonRequest, ["reason"], reason=reason)
    try:
        ExchangeRef.parse(key)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    client = Client(live_deployment(runs_dir, run_name))
    try:
        path = f"/v1/feedback/{quote(key, safe='')}/{act}"
        accepted = client.broker("POST", path, Accepted, body)
    finally:
        client.close()
    typer.echo(f"asked for ({accepted.accepted}): `opcod feedback show {key}` says what came of it")


@contextmanager
def _target(out: Path | None) -> Iterator[BinaryIO]:
    """Standard output, or a file that appears whole or not at all; what is there and is no file, as a device or a named
    pipe, is written to. Raises ConfigError where it cannot be written."""
    if out is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    # Where links lead: a rename would replace the link.
    place = Path(os.path.realpath(out))
    # Written aside, so that an export that breaks off leaves no half file that looks like a whole one.
    part = place.with_name(temporary_name())
    try:
        # A rename would put a file in the place of a device, or of /dev/stdout, which leads to no path.
        is_file = out.is_file() or not out.exists()
        with (part if is_file else out).open("wb") as file:
            yield file
        if is_file:
            part.replace(place)
    except OSError as error:
        raise ConfigError(f"--out: cannot write {out}: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)


def _show_stored(runs_dir: Path, run: str, last: int, as_json: bool) -> None:
    with open_exchanges(runs_dir, run) as exchanges:
        found = exchanges.newest(ExchangeFilter(), last) if last else ()
        for exchange in reversed(found):
            typer.echo(exchange.model_dump_json() if as_json else brief(exchange))


def _follow(deployment: Deployment, last: int, follow: bool, as_json: bool) -> None:
    bus = RedisBus(deployment.bus_url(), deployment.run)
    log = ExchangeLog(bus)
    # The log can only be read forwards: all of it, and the last ones are kept.
    for event in deque(log.new(), maxlen=last):
        _show(event, as_json)
    # Noted and not raised, so that no line breaks off in its middle.
    with interruptible() as interrupted:
        while follow and not interrupted():
            for event in log.new():
                _show(event, as_json)
            time.sleep(POLL_S)
    bus.close()


class ExchangeLog:
    """Feedback, revisions, warnings and acts in the run's log, each once."""

    def __init__(self, bus: RedisBus) -> None:
        self._bus = bus
        self._cursor = "0"

    def new(self) -> Iterator[Event]:
        """Those that came since the last call, in order."""
        while page := self._bus.read_events(self._cursor, count=PAGE, block_s=0):
            # Before its events are handed out: who stops in the middle of a page is not shown it again.
            self._cursor = page[-1][0]
            yield from (event for _, event in page if event.kind in SHOWN)


def _show(event: Event, as_json: bool) -> None:
    typer.echo(event.model_dump_json() if as_json else describe(event))


def describe(event: Event) -> str:
    """One event on a few lines."""
    if event.kind == "feedback":
        return brief(event)
    if event.kind == "revised":
        return revised(event)
    if event.kind == "alarm" or event.kind == "silenced":
        return on_one_line(warning(event))
    if event.kind == "acted":
        return on_one_line(act_line(event))
    return event.kind
