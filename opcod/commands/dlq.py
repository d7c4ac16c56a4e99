"""`opcod dlq`: the messages that no service could handle, and what to do with them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.table import Table

from opcod.local.deployment import live_deployment
from opcod.local.progress import make_console
from opcod.options import RUNS_DIR, RunsDir
from shared.bus.port import DeadLetter
from shared.bus.redis import RedisBus
from shared.contracts.envelope import Envelope, unwrap
from shared.contracts.jobs import Job
from shared.contracts.run import RunState
from shared.contracts.targets import awaited
from shared.errors import ConfigError, MalformedMessageError, printable

MOST = 1000
SHOWN_BYTES = 4000

app = typer.Typer(no_args_is_help=True)

RunName = Annotated[str | None, typer.Option("--run", help="Default: the one that is up.")]
Ids = Annotated[list[str], typer.Argument(metavar="ID...", help="As `opcod dlq list` names them.")]


@app.callback()
def dlq() -> None:
    """Messages that no service could handle (dead letters): look, retry, delete."""


@app.command("list")
def list_letters(
    run_name: RunName = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, raw bytes as text.")] = False,
    runs_dir: RunsDir = RUNS_DIR,
) -> None:
    """List messages that no service could handle, oldest first."""
    with _bus(runs_dir, run_name) as bus:
        letters = bus.dead_letters(MOST)
    if as_json:
        for letter in letters:
            typer.echo(json.dumps(_as_json(letter)))
        return
    if not letters:
        typer.echo("no dead letters")
        return
    table = Table("id", "queue", "message", "taken", "reason")
    for letter in letters:
        cells = (letter.entry_id, letter.queue, _name(letter), str(letter.deliveries), letter.reason)
        table.add_row(*map(printable, cells))
    make_console().print(table)


@app.command("show")
def show(entry_id: str, run_name: RunName = None, runs_dir: RunsDir = RUNS_DIR) -> None:
    """Show one message whole, with the error that it ended in."""
    with _bus(runs_dir, run_name) as bus:
        letter = _find(bus, entry_id)
    typer.echo(json.dumps(_as_json(letter), indent=1))


@app.command("retry")
def retry(ids: Ids, run_name: RunName = None, runs_dir: RunsDir = RUNS_DIR) -> None:
    """Put messages back on their queues, with fresh attempts: mend the cause first.

    A job that the run has given up is refused: resuming the run makes it again."""
    with _bus(runs_dir, run_name) as bus:
        for entry_id in ids:
            letter = _find(bus, entry_id)
            _check_awaited(bus, letter)
            # Somebody else may have retried or dropped it since it was found.
            if not bus.retry_dead_letter(entry_id):
                raise _unknown(entry_id)
            typer.echo(f"{entry_id}: back on {letter.queue}")


@app.command("drop")
def drop(ids: Ids, run_name: RunName = None, runs_dir: RunsDir = RUNS_DIR) -> None:
    """Delete messages for good."""
    with _bus(runs_dir, run_name) as bus:
        for entry_id in ids:
            if not bus.drop_dead_letter(entry_id):
                raise _unknown(entry_id)
            typer.echo(f"{entry_id}: dropped")


@contextmanager
def _bus(runs_dir: Path, run_name: str | None) -> Iterator[RedisBus]:
    deployment = live_deployment(runs_dir, run_name)
    bus = RedisBus(deployment.bus_url(), deployment.run)
    try:
        yield bus
    finally:
        bus.close()


def _find(bus: RedisBus, entry_id: str) -> DeadLetter:
    for letter in bus.dead_letters(MOST):
        if letter.entry_id == entry_id:
            return letter
    raise _unknown(entry_id)


def _check_awaited(bus: RedisBus, letter: DeadLetter) -> None:
    """Raises ConfigError for a job whose result would be thrown away: its failure was counted when it was buried."""
    try:
        job = unwrap(letter.raw)
    # Nobody can tell what it is about; putting it back does no harm, it would be buried again.
    except MalformedMessageError:
        return
    state = bus.load_state()
    # Anything else than a job may be handled again at any time: who takes it knows it by its key.
    if not isinstance(job, Job) or state is None or awaited(RunState.model_validate_json(state), job.id):
        return
    raise ConfigError(
        f"expected a message that the run still waits for, got {job.kind.value} job {job.id}, which it has counted as "
        f"failed: nobody would take its result. Rollouts and evaluations get fresh attempts when the run is resumed "
        f"(`opcod run --resume {bus.keys.run}`, or POST /v1/runs/{bus.keys.run}/resume); feedback and revisions are "
        f"done without. Then `opcod dlq drop {letter.entry_id}`"
    )


def _unknown(entry_id: str) -> ConfigError:
    return ConfigError(f"expected a dead letter as `opcod dlq list` shows it, there is no {entry_id!r}")


def _name(letter: DeadLetter) -> str:
    try:
        envelope = Envelope.model_validate_json(letter.raw)
    except ValidationError:
        return f"unreadable, {len(letter.raw)} bytes"
    return f"{envelope.type} {envelope.id}"


def _as_json(letter: DeadLetter) -> dict[str, object]:
    """Bytes that are no UTF-8 are shown as escapes; the tail of a long message is left out."""
    return {
        "id": letter.entry_id,
        "queue": letter.queue,
        "message": _name(letter),
        "deliveries": letter.deliveries,
        "reason": letter.reason,
        "raw": letter.raw[:SHOWN_BYTES].decode(errors="backslashreplace"),
    }
