"""`opcod status`: what is up, where, and how the run goes."""

from typing import Annotated

import httpx2
import typer
from pydantic import BaseModel, ConfigDict

from opcod.client import Client
from opcod.deployment import Deployment, Endpoint, live_deployment
from opcod.options import RUNS_DIR, ConfigFile, Overrides, Preset, RunsDir
from opcod.page import page_address
from shared.contracts.http import PeersResponse
from shared.errors import EXIT_UNAVAILABLE, OpcodError, UnavailableError

PROBE_TIMEOUT_S = 5.0


class StatusView(BaseModel):
    """`opcod status --json`. ready: every service of the run answers /readyz with 200."""

    model_config = ConfigDict(extra="forbid")

    ready: bool
    run: str
    mode: str
    status: str | None
    round: int | None
    broker: Endpoint
    inspector: Endpoint | None
    students: list[Endpoint]
    key: str
    page: str
    not_ready: list[str]


def status(
    run_name: Annotated[str | None, typer.Option("--run", help="Default: the one that is up.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
    preset: Preset = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    runs_dir: RunsDir = RUNS_DIR,
) -> None:
    """Say what is up. Exit code 69 if nothing is, or not all of it is ready."""
    del preset, config, overrides  # a run brings its settings; the options are there as in every command
    view = _view(live_deployment(runs_dir.resolve(), run_name))
    if as_json:
        typer.echo(view.model_dump_json(indent=1))
    else:
        typer.echo(f"run {view.run} ({view.mode}): {view.status or 'unknown'}, round {view.round or '–'}")
        for endpoint in [view.broker, *([view.inspector] if view.inspector else []), *view.students]:
            state = "not ready" if endpoint.name in view.not_ready else "ready"
            typer.echo(f"  {endpoint.name:<12} {endpoint.url:<28} {state}")
        typer.echo(f"page, logs you in once: {view.page}")
    if not view.ready:
        raise typer.Exit(EXIT_UNAVAILABLE)


def _view(deployment: Deployment) -> StatusView:
    if deployment.broker is None:
        raise UnavailableError(
            f"the broker of run {deployment.run} is up, but does not say where; set its OPCOD_URL_FILE"
        )
    students = [Endpoint(name=f"student-{s.name}", url=s.url) for s in deployment.students]
    endpoints = [each for each in (deployment.broker, deployment.inspector, *students) if each is not None]
    missing = [endpoint.name for endpoint in endpoints if not _ready(endpoint.url)]
    peers = _peers(deployment)
    return StatusView(
        ready=not missing,
        run=deployment.run,
        mode=deployment.mode,
        status=peers.status if peers else None,
        round=peers.round if peers else None,
        broker=deployment.broker,
        inspector=deployment.inspector,
        students=students,
        key=deployment.key(),
        page=page_address(deployment),
        not_ready=missing,
    )


def _ready(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/readyz", timeout=PROBE_TIMEOUT_S, trust_env=False).status_code == 200
    except httpx2.HTTPError:
        return False


def _peers(deployment: Deployment) -> PeersResponse | None:
    client = Client(deployment)
    try:
        return client.broker("GET", "/v1/peers", PeersResponse)
    except OpcodError:
        return None
    finally:
        client.close()
