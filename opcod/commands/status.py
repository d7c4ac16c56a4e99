"""`opcod status`: what is up, where, and how the run goes."""

from typing import Annotated

import typer
from pydantic import BaseModel, ConfigDict

from opcod.local.deployment import Deployment, Endpoint, live_deployment
from opcod.options import RUNS_DIR, RunsDir
from opcod.talk.client import Client, page_address
from shared.bus.redis import RedisBus
from shared.contracts.heartbeats import TRAINER_READY
from shared.contracts.http import PeersResponse
from shared.errors import EXIT_UNAVAILABLE, OpcodError, UnavailableError
from shared.http.client import not_ready

PROBE_TIMEOUT_S = 5.0


class StatusView(BaseModel):
    """`opcod status --json`. ready: every service that the run needs is up, answers /readyz with 200 and, if it is a
    trainer, says in its heartbeat that it can train. not_ready: the others, also those that nobody has heard of."""

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
    page: str | None
    not_ready: list[str]


def status(
    run_name: Annotated[str | None, typer.Option("--run", help="Default: the one that is up.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
    runs_dir: RunsDir = RUNS_DIR,
) -> None:
    """Say what is up. Exit code 69 if nothing is, or not all of it is ready."""
    deployment = live_deployment(runs_dir.resolve(), run_name)
    view = _view(deployment)
    if as_json:
        typer.echo(view.model_dump_json(indent=1))
    else:
        typer.echo(f"run {view.run} ({view.mode}): {view.status or 'unknown'}, round {view.round or '–'}")
        urls = _urls(view.broker, view.inspector, *view.students)
        for name in deployment.services():
            typer.echo(f"  {name:<12} {urls.get(name, '–'):<28} {'not ready' if name in view.not_ready else 'ready'}")
        if view.page is not None:
            typer.echo(f"page, logs you in once: {view.page}")
    if not view.ready:
        raise typer.Exit(EXIT_UNAVAILABLE)


def _view(deployment: Deployment) -> StatusView:
    if deployment.broker is None:
        raise UnavailableError(
            f"the broker of run {deployment.run} is up, but does not say where; set its OPCOD_URL_FILE"
        )
    students = [Endpoint(name=f"student-{s.name}", url=s.url) for s in deployment.students]
    ready = {
        name
        for name, url in _urls(deployment.broker, deployment.inspector, *students).items()
        # Asked and not taken from heartbeats: those go on while a service is not ready.
        if not_ready(url, PROBE_TIMEOUT_S) is None
    }
    up = ready | _training(deployment)
    missing = [name for name in deployment.services() if name not in up]
    # A broker that is not ready would keep the question until it times out.
    peers = _peers(deployment) if "broker" in ready else None
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


def _urls(*endpoints: Endpoint | None) -> dict[str, str]:
    return {endpoint.name: endpoint.url for endpoint in endpoints if endpoint is not None}


def _training(deployment: Deployment) -> set[str]:
    """Trainers that could take a batch now; none of them while Redis is away. Nobody asks them, so none has a URL."""
    bus = RedisBus(deployment.bus_url(), deployment.run)
    try:
        beats = bus.heartbeats()
    except UnavailableError:
        return set()
    finally:
        bus.close()
    return {beat.service for beat in beats if beat.service.startswith("trainer-") and beat.state in TRAINER_READY}


def _peers(deployment: Deployment) -> PeersResponse | None:
    client = Client(deployment)
    try:
        return client.broker("GET", "/v1/peers", PeersResponse)
    except OpcodError:
        return None
    finally:
        client.close()
