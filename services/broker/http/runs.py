"""The broker's HTTP API: `add_routes` for the run, its peers and asking them; `acting_routes` for acting on the run.

To act is to flag or exclude an exchange, or to silence a tutor. A request is checked against the run as it is now, and
then becomes a message on `results` as any other; what came of it is an event `acted`, since a batch may be sealed in
between.
"""

import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Literal, get_args

from fastapi import APIRouter, FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse

from services.broker.exchange.batches import adopt, is_sealed
from services.broker.http.asking import Asking
from services.broker.http.openai import PeersChat, openai_routes
from services.broker.http.peers import Peers
from services.broker.machine.acting import Refusal, refusal_of
from services.broker.machine.plan import Plan
from shared.bus.keys import RESULTS
from shared.bus.port import Bus
from shared.config.settings import RunSettings
from shared.contracts.acting import (
    Accepted,
    Act,
    ActAsked,
    Control,
    ExchangeAct,
    ExchangeRef,
    ReasonRequest,
    SilenceAct,
    SilenceRequest,
)
from shared.contracts.http import AskRequest, AskResponse, PeersResponse
from shared.contracts.run import RunState
from shared.errors import StorageError
from shared.files.batches import read_group
from shared.files.store import LocalStore
from shared.http.app import ADMIN, ASK, READ, JsonRoute, asked_by
from shared.http.guard import error_response
from shared.http.remote import RemoteCalls
from shared.http.sse import EVENT_STREAM, EVENTS, open_stream, unless_gone
from shared.problems.problem import ProblemFormat

Action = Literal["pause", "resume", "abort"]
ACTIONS: tuple[Action, ...] = get_args(Action)


def add_routes(
    app: FastAPI,
    *,
    settings: RunSettings,
    state: Callable[[], RunState],
    bus: Bus,
    peers: Peers,
    calls: RemoteCalls,
    format_: ProblemFormat,
    train: bool,
) -> None:
    """`train` off: the run is only served, so there is nothing to pause, resume or abort."""

    @app.get("/v1/runs/{run}", response_model=RunState, dependencies=READ)
    async def show_run(run: str) -> RunState | JSONResponse:
        return state() if run == state().run else _no_run(run)

    @app.get("/v1/runs", dependencies=READ)
    async def list_runs() -> list[str]:
        return [state().run]

    def controlling(action: Action) -> Callable[[str], Awaitable[JSONResponse]]:
        async def control(run: str) -> JSONResponse:
            if run != state().run:
                return _no_run(run)
            if not train:
                message = f"run {run} is only served here; `opcod run --resume {run}` goes on with it"
                return error_response(409, message, "conflict_error")
            request = Control(id=uuid.uuid4().hex, action=action, reason="asked for through the API")
            await calls.make(bus.publish, RESULTS, request)
            return JSONResponse({"accepted": request.id}, status_code=202)

        return control

    # A path each: one with a parameter in the place of the word would take in what others do to a run, as silencing.
    for action in ACTIONS:
        path = f"/v1/runs/{{run}}/{action}"
        app.post(path, name=action, response_model=Accepted, status_code=202, dependencies=ADMIN)(controlling(action))

    @app.get("/v1/peers", dependencies=READ)
    async def show_peers() -> PeersResponse:
        return await peers.view()

    asking = Asking(peers, settings, format_)
    add_asking(app, asking)
    app.include_router(openai_routes(peers, PeersChat(asking)))

    def _no_run(run: str) -> JSONResponse:
        return error_response(404, f"this deployment serves run {state().run}, not {run!r}", "invalid_request_error")


def add_asking(app: FastAPI, asking: Asking) -> None:
    """Asking the peers, as JSON or as events."""

    @app.post("/v1/peers/ask", response_model=AskResponse, dependencies=ASK, responses=EVENTS)
    async def ask_peers(body: AskRequest, request: Request) -> AskResponse | Response:
        if EVENT_STREAM in request.headers.get("accept", ""):
            return await open_stream(request, asking.frames(body))
        return await unless_gone(request, asking.ask(body))


def acting_routes(
    state: Callable[[], RunState], plan: Plan, bus: Bus, calls: RemoteCalls, run_dir: Path, *, train: bool
) -> APIRouter:
    """`train` off: the run is only served, so there is nothing to act on. Answers 202, 404 or 409."""
    router = APIRouter(prefix="/v1", route_class=JsonRoute, dependencies=ADMIN)
    store = LocalStore(run_dir)

    @router.post("/runs/{run}/silence", status_code=202)
    @calls.route
    def silence(run: str, body: SilenceRequest, request: Request) -> Accepted:
        if run != plan.run:
            raise HTTPException(404, f"this deployment serves run {plan.run}, not {run!r}")
        return ask(SilenceAct(id=uuid.uuid4().hex, by=asked_by(request), **body.model_dump()))

    @router.post("/feedback/{key:path}/flag", status_code=202)
    @calls.route
    def flag(key: str, body: ReasonRequest, request: Request) -> Accepted:
        return ask(exchange_act("flag", key, body, request))

    @router.post("/feedback/{key:path}/exclude", status_code=202)
    @calls.route
    def exclude(key: str, body: ReasonRequest, request: Request) -> Accepted:
        return ask(exchange_act("exclude", key, body, request))

    def exchange_act(act: Literal["flag", "exclude"], key: str, body: ReasonRequest, request: Request) -> ExchangeAct:
        try:
            exchange = ExchangeRef.parse(key)
        except ValueError as error:
            raise HTTPException(404, str(error)) from error
        return ExchangeAct(id=uuid.uuid4().hex, act=act, exchange=exchange, by=asked_by(request), reason=body.reason)

    def ask(act: Act) -> Accepted:
        if not train:
            raise HTTPException(409, f"run {plan.run} is only served here; `opcod run --resume {plan.run}` goes on")
        refusal = refusal_of(state(), plan, act, sealed=_lies_sealed(store, plan, act)) or _unknown(store, plan, act)
        if refusal is not None:
            raise HTTPException(404 if refusal.kind == "missing" else 409, refusal.reason)
        # By the queue that all reports come through, so that it has its place among them.
        bus.publish(RESULTS, ActAsked(act=act))
        return Accepted(accepted=act.id)

    return router


def _lies_sealed(store: LocalStore, plan: Plan, act: Act) -> bool:
    if not isinstance(act, ExchangeAct) or act.exchange.student not in plan.students:
        return False
    return is_sealed(store, act.exchange.student, act.exchange.step)


def _unknown(store: LocalStore, plan: Plan, act: Act) -> Refusal | None:
    """A flag on a sealed exchange must be of one that the batch holds."""
    if not isinstance(act, ExchangeAct):
        return None
    exchange = act.exchange
    missing = Refusal("missing", f"the batch of {exchange.student}, step {exchange.step} has no {exchange.key}")
    try:
        sealed = adopt(store, exchange.student, exchange.step, plan.run)
        if sealed is None:
            # Not sealed yet: the step's problems follow from its number, and a flag may come before the batch.
            planned = {problem.id for problem in plan.step_problems(exchange.student, exchange.step)}
            return None if exchange.problem_id in planned else missing
        group = read_group(store, sealed.manifest, exchange.problem_id)
    except StorageError:
        return missing
    return None if any(sample.index == exchange.sample for sample in group.samples) else missing
