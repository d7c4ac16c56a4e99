"""`opcod feedback flag|exclude|silence`: acting on what is seen, through the broker of a run that is up."""

from typing import Annotated, Literal
from urllib.parse import quote

import typer

from opcod.local.deployment import live_deployment
from opcod.options import RUNS_DIR, RunsDir
from opcod.talk.client import Client, body_of
from shared.contracts.acting import Accepted, ExchangeRef, ReasonRequest, SilenceRequest
from shared.errors import ConfigError

RunName = Annotated[str | None, typer.Option("--run", help="Default: the one that is up.")]
Exchange = Annotated[str, typer.Argument(metavar="EXCHANGE", help="As `tail` names it: a.s3.dilution-train-004.2.")]
Reason = Annotated[str, typer.Argument(metavar="REASON", help="Kept with it, for whoever reads the history.")]


def add_acts(app: typer.Typer) -> None:
    """Put the three commands under `app`."""
    app.command("flag")(flag)
    app.command("exclude")(exclude)
    app.command("silence")(silence)


def flag(key: Exchange, reason: Reason, run_name: RunName = None, runs_dir: RunsDir = RUNS_DIR) -> None:
    """Note something about an exchange; changes nothing in the run."""
    _act_on("flag", key, reason, run_name, runs_dir)


def exclude(key: Exchange, reason: Reason, run_name: RunName = None, runs_dir: RunsDir = RUNS_DIR) -> None:
    """Keep the feedback of an exchange out of training, while its batch is not sealed."""
    _act_on("exclude", key, reason, run_name, runs_dir)


def silence(
    tutor: Annotated[str, typer.Argument(metavar="TUTOR", help="a or b.")],
    reason: Reason,
    run_name: RunName = None,
    runs_dir: RunsDir = RUNS_DIR,
) -> None:
    """Do not ask a tutor any more in this round."""
    body = body_of(SilenceRequest, ["tutor", "reason"], tutor=tutor, reason=reason)
    client = Client(live_deployment(runs_dir.resolve(), run_name))
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
    client = Client(live_deployment(runs_dir.resolve(), run_name))
    try:
        path = f"/v1/feedback/{quote(key, safe='')}/{act}"
        accepted = client.broker("POST", path, Accepted, body)
    finally:
        client.close()
    typer.echo(f"asked for ({accepted.accepted}): `opcod feedback show {key}` says what came of it")
