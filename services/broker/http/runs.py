"""The broker's HTTP API: runs, peers, asking, and OpenAI's chat and models over all of it."""

import uuid
from collections.abc import Awaitable, Callable
from typing import Literal, get_args

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from services.broker.http.asking import Asking
from services.broker.http.openai import openai_routes
from services.broker.http.peers import Peers
from services.broker.peers_chat import PeersChat
from shared.bus.keys import RESULTS
from shared.bus.port import Bus
from shared.config.settings import RunSettings
from shared.contracts.control import Control
from shared.contracts.http import AskRequest, AskResponse, PeersResponse
from shared.contracts.run import RunState
from shared.http.app import ADMIN, ASK, READ
from shared.http.guard import error_response
from shared.http.remote import RemoteCalls
from shared.http.sse import EVENT_STREAM, EVENTS, open_stream, unless_gone
from shared.problems.formats import ProblemFormat

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
        app.post(path, name=action, response_model=None, status_code=202, dependencies=ADMIN)(controlling(action))

    @app.get("/v1/peers", dependencies=READ)
    async def show_peers() -> PeersResponse:
        return await peers.view()

    asking = Asking(peers, settings, format_)
    add_asking(app, asking)
    app.include_router(openai_routes(peers, PeersChat(asking)))

    def _no_run(run: str) -> JSONResponse:
        return error_response(404, f"this deployment serves run {state().run}, not {run!r}", "not_found_error")


def add_asking(app: FastAPI, asking: Asking) -> None:
    """Asking the peers, as JSON or as events."""

    @app.post("/v1/peers/ask", response_model=AskResponse, dependencies=ASK, responses=EVENTS)
    async def ask_peers(body: AskRequest, request: Request) -> AskResponse | Response:
        if EVENT_STREAM in request.headers.get("accept", ""):
            return await open_stream(request, asking.frames(body))
        return await unless_gone(request, asking.ask(body))
