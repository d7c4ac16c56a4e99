"""`opcod status`: what is up, where, and how the run goes."""

from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

import typer
from pydantic import BaseModel, ConfigDict

from opcod.local.deployment import Deployment, Endpoint, live_deployment
from opcod.local.names import ServiceName, name_of
from opcod.options import RUNS_DIR, RunsDir
from opcod.talk.client import Client, Page, page_of
from shared.bus.redis import RedisBus
from shared.contracts.heartbeats import TRAINER_READY
from shared.contracts.run import RunState
from shared.errors import EXIT_UNAVAILABLE, OpcodError, UnavailableError, printable
from shared.http.client import not_ready
from shared.results.glance import Glance, glance

ANSWER_S = 3.0
"""For all who are asked, at once: a service answers its probe in milliseconds, and one that is busy loading a model
need not keep a person waiting for what the others say."""

NOWHERE = "it has not said where it is"
UNHEARD_OF = "it has given no sign of life"


class StatusView(BaseModel):
    """`opcod status --json`. ready: every service that the run needs is up, answers /readyz with 200 and, if it is a
    trainer, says in its heartbeat that it can train. not_ready: the others, also those that nobody has heard of;
    reasons: why, of each of them. glance: None where the broker does not say how the run stands."""

    model_config = ConfigDict(extra="forbid")

    ready: bool
    run: str
    mode: str
    status: str | None
    round: int | None
    glance: Glance | None
    broker: Endpoint
    inspector: Endpoint | None
    students: list[Endpoint]
    key: str
    page: str | None
    not_ready: list[str]
    reasons: dict[str, str]


def status(
    run_name: Annotated[str | None, typer.Option("--run", help="Default: the one that is up.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
    runs_dir: RunsDir = RUNS_DIR,
) -> None:
    """Show what is up, and how its run goes. Exit code 69 if nothing is up, or something is not ready."""
    deployment = live_deployment(runs_dir, run_name)
    view, page = view_of(deployment)
    if as_json:
        typer.echo(view.model_dump_json(indent=1))
    else:
        typer.echo(f"run {view.run} ({view.mode}): {view.status or 'unknown'}, round {view.round or '–'}")
        for line in view.glance.lines if view.glance else []:
            typer.echo(f"  {line}")
        urls = _urls(deployment)
        for name in deployment.services():
            reason = view.reasons.get(name)
            line = f"  {name:<12} {urls.get(name, '–'):<28} {f'not ready: {reason}' if reason else 'ready'}"
            typer.echo(printable(line))
        if page is not None:
            typer.echo(f"page: {page}")
    if not view.ready:
        raise typer.Exit(EXIT_UNAVAILABLE)


def view_of(deployment: Deployment) -> tuple[StatusView, Page | None]:
    """Of a deployment whose broker has said where it is, and where its page is found. Raises UnavailableError."""
    if deployment.broker is None:
        raise UnavailableError(
            f"the broker of run {deployment.run} is up, but does not say where; set its OPCOD_URL_FILE"
        )
    with ThreadPoolExecutor() as asking:
        # Asked and not taken from heartbeats: those go on while a service is not ready.
        problems = {name: asking.submit(not_ready, url, ANSWER_S) for name, url in _urls(deployment).items()}
        bus = asking.submit(_bus, deployment)
        state = asking.submit(_state, deployment)
        page = asking.submit(page_of, deployment, ANSWER_S)
    unasked, training, letters = bus.result()
    why = {name: problem.result() for name, problem in problems.items()} | unasked
    reasons = {name: reason for name in deployment.services() if (reason := why.get(name, NOWHERE)) is not None}
    said, link = state.result(), page.result()
    view = StatusView(
        ready=not reasons,
        run=deployment.run,
        mode=deployment.mode,
        status=said.status.value if said else None,
        round=said.round if said else None,
        glance=glance(said, deployment.settings().run, training=training, dead_letters=letters) if said else None,
        broker=deployment.broker,
        inspector=deployment.inspector,
        students=[Endpoint(name=f"student-{s.name}", url=s.url) for s in deployment.students],
        key=deployment.key(),
        page=link.address if link else None,
        not_ready=list(reasons),
        reasons=reasons,
    )
    return view, link


def _urls(deployment: Deployment) -> dict[str, str]:
    """Of each service that has said where it is."""
    students = {f"student-{student.name}": student.url for student in deployment.students}
    others = (deployment.broker, deployment.inspector)
    return {endpoint.name: endpoint.url for endpoint in others if endpoint is not None} | students


def _bus(deployment: Deployment) -> tuple[dict[str, str | None], bool, int]:
    """Why each trainer, and each student's further replicas, could not take work now, or None; whether a trainer is up;
    how many dead letters lie there. None of them has a URL here, so their heartbeats say it, and nothing does while
    Redis is away."""
    trainers = [name for name in deployment.services() if ServiceName.of(name).kind == "trainer"]
    names = [*trainers, *(name for name in deployment.services() if ServiceName.of(name).replica)]
    bus = RedisBus(deployment.bus_url(), deployment.run, deadline_s=ANSWER_S)
    try:
        states = {name_of(beat): beat.state for beat in bus.heartbeats()}
        letters = len(bus.dead_letters())
    except UnavailableError as error:
        # Whether trainers are up is not known then, and taken for granted: that they are not would be the graver error.
        return dict.fromkeys(names, str(error)), bool(trainers), 0
    finally:
        bus.close()
    found = {name: states.get(name, UNHEARD_OF) for name in names}
    return (
        {name: None if state in TRAINER_READY else state for name, state in found.items()},
        bool(states.keys() & set(trainers)),
        letters,
    )


def _state(deployment: Deployment) -> RunState | None:
    """As the broker has it; None where it does not answer."""
    client = Client(deployment, ANSWER_S)
    try:
        return client.broker("GET", f"/v1/runs/{deployment.run}", RunState)
    except OpcodError:
        return None
    finally:
        client.close()
