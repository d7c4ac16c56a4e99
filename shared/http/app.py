"""What every HTTP service does alike: probes, metrics, scopes of routes, JSON bodies, errors in OpenAI's shape.

What always holds: a body that reaches a route is text that UTF-8 can carry; a refusal says what was expected, what came
and what to do, and names the field as the caller wrote it.
"""

import json
import re
from codecs import BOM_UTF8
from collections.abc import Callable, Coroutine, Sequence
from http import HTTPStatus
from typing import Annotated, Any

import structlog
from fastapi import Depends, FastAPI, HTTPException, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.params import Form
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic_core import ErrorDetails, from_json
from starlette.exceptions import HTTPException as StarletteHTTPException

from shared.contracts.http import ErrorResponse, Readiness
from shared.errors import ConfigError, FencedError, OpcodError, RequestError, UnavailableError, shown
from shared.http.access import AccessKeys, Limits, Scope
from shared.http.guard import NOBODY_KNOWN, Guard, error_response
from shared.http.sessions import Sessions

MAX_SHOWN_CHARS = 60
"""Of a value or a name that a refusal repeats."""

ERRORS: dict[int | str, dict[str, Any]] = {
    "default": {"model": ErrorResponse, "description": "What was expected, what came and what to do"}
}
"""What the schema says of every answer that is not as asked. Without it FastAPI tells of a body of its own."""

# For the schema: Guard has looked at the key before any route.
_BEARER = HTTPBearer(description="A key of the run's key file", auto_error=False)

UNROUTED = {int(status): status.phrase for status in (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED)}
"""What the router itself says: the status once more."""

CODES = {"extra_forbidden": "unknown_parameter", "missing": "missing_required_parameter"}

# Where pydantic speaks of Python's types to callers that write JSON.
_PLAINER = {
    "dict_type": "Input should be an object",
    "extra_forbidden": "no such field is known here; leave it out",
    "model_attributes_type": "Input should be an object",
    "tuple_type": "Input should be an array",
}

_PYTHONS_LIST = re.compile(r"^(Tuple|List)(?= should)")

# Kinds whose message needs no value beside it: there is none, it is not the point, or the message has it.
_WITHOUT_VALUE = frozenset({"extra_forbidden", "missing", "value_error"})


log = structlog.get_logger()


class ForbiddenError(OpcodError):
    """The key is valid, but may not do this."""


def create_app(
    title: str,
    *,
    ready: Callable[[], str | None],
    keys: AccessKeys | None,
    limits: Limits,
    sessions: Sessions | None = None,
) -> FastAPI:
    """An app with /livez, /readyz and /metrics. `ready` gives None, or why it is not ready, out of memory: probes are
    answered on the event loop, which no request can fill.

    With `keys`, every other path needs `Authorization: Bearer <key>`, and each route a key of its scope (`needs`);
    with `sessions`, a browser's session does as well.
    """
    # No pages of FastAPI's own: they load scripts from another host.
    app = FastAPI(title=title, docs_url=None, redoc_url=None, responses=ERRORS)
    # Before the first route: each is made of the class that is set then.
    app.router.route_class = JsonRoute
    app.add_middleware(Guard, keys=keys, limits=limits, sessions=sessions)

    @app.get("/livez", include_in_schema=False)
    async def livez() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz", include_in_schema=False)
    async def readyz() -> JSONResponse:
        reason = ready()
        answer = Readiness(status="ready" if reason is None else "not ready", reason=reason)
        return JSONResponse(answer.model_dump(exclude_none=True), 200 if reason is None else 503)

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    app.add_exception_handler(OpcodError, _opcod_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(StarletteHTTPException, _http_error)
    app.add_exception_handler(Exception, _unexpected)
    return app


def needs(scope: Scope) -> Any:
    """For the `dependencies` of a route: the least scope that it takes. Raises ForbiddenError (403)."""

    async def check(request: Request, _key: Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)]) -> None:
        granted: Scope = request.state.scope
        if granted < scope:
            raise ForbiddenError(f"expected a key with the scope {scope.word}, this one has {granted.word}")

    return Depends(check)


def asked_by(request: Request) -> str:
    """Who asks, for people to read: the scope of the key and a name that tells nothing of it."""
    caller: str = request.state.caller
    scope: Scope = request.state.scope
    return caller if caller == NOBODY_KNOWN else f"{scope.word} key {caller[:8]}"


READ, ASK, ADMIN = ([needs(scope)] for scope in Scope)


async def _opcod_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, OpcodError)
    return opcod_error_response(error)


def opcod_error_response(error: OpcodError) -> JSONResponse:
    """What a client gets to see of an error that was raised on purpose."""
    if isinstance(error, UnavailableError | FencedError):
        return error_response(503, str(error), "unavailable_error")
    if isinstance(error, ForbiddenError):
        return error_response(403, str(error), "permission_error")
    if isinstance(error, RequestError):
        return error_response(error.status, str(error), "invalid_request_error", error.param, error.code)
    if isinstance(error, ConfigError):
        return error_response(400, str(error), "invalid_request_error")
    log.error("request failed", error=str(error), type=type(error).__name__)
    return error_response(500, str(error), "server_error")


async def _invalid(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return invalid_response(422, error)


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, StarletteHTTPException)
    kind = "conflict_error" if error.status_code == 409 else "invalid_request_error"
    message = str(error.detail)
    if message == UNROUTED.get(error.status_code):
        message = _unrouted(request, error)
    answer = error_response(error.status_code, message, kind)
    answer.headers.update(error.headers or {})
    return answer


def _unrouted(request: Request, error: StarletteHTTPException) -> str:
    path = shown(request.url.path)
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        return f"expected {(error.headers or {}).get('Allow', 'another method')} at {path}, got {request.method}"
    return f"there is nothing at {path}; /openapi.json says what there is"


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    """The server logs it with its traceback; the client learns only that it was not its fault."""
    log.error("unexpected error", path=request.url.path, error=str(error), type=type(error).__name__)
    answer = error_response(500, "an unexpected error in this service; its log has the details", "server_error")
    # The error goes on to the server, which then ends the connection: a client that is not told so sends its next
    # request into it.
    answer.headers["Connection"] = "close"
    return answer


class JsonRequest(Request):
    """A request whose body is JSON."""

    async def json(self) -> Any:
        """Raises HTTPException (400) saying where it is no JSON, or holds a lone surrogate, NaN or too deep a nest."""
        try:
            return from_json((await self.body()).removeprefix(BOM_UTF8), allow_inf_nan=False)
        except ValueError as error:
            raise HTTPException(400, f"expected a body in JSON, it breaks off: {error}") from error


class JsonRoute(APIRoute):
    """A route of which a body, if it takes one that is no form, is JSON and says so."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        takes_json = self.body_field is not None and not isinstance(self.body_field.field_info, Form)

        async def handler(request: Request) -> Response:
            if not takes_json:
                return await handle(request)
            _require_json(request)
            return await handle(JsonRequest(request.scope, request.receive))

        return handler


class OpenAIRoute(JsonRoute):
    """A route of OpenAI's API: there, what does not fit the schema is a 400."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                return invalid_response(400, error)

        return handler


def invalid_response(status: int, error: RequestValidationError) -> JSONResponse:
    """The first fault of a request that does not fit its route's schema."""
    first: ErrorDetails = error.errors()[0]
    message = _PLAINER.get(first["type"], first["msg"]).removeprefix("Value error, ")
    message = _PYTHONS_LIST.sub("Array", message)
    if first["type"] not in _WITHOUT_VALUE:
        message += f", got {_shown(first['input'])}"
    code = CODES.get(first["type"], "invalid_value")
    place, *path = first["loc"]
    if place == "body":
        path = _as_written(path, error.body, missing=first["type"] == "missing")
    if param := ".".join(str(step)[:MAX_SHOWN_CHARS] for step in path):
        return error_response(status, f"{param}: {message}", "invalid_request_error", param, code)
    if first["type"] != "value_error":
        return error_response(status, f"{place}: {message}", "invalid_request_error", None, code)
    # One of our own about the whole: it begins with the field where a single one is to blame.
    field = message.partition(":")[0]
    return error_response(status, message, "invalid_request_error", field if field.isidentifier() else None, code)


def _require_json(request: Request) -> None:
    """Raises HTTPException (415). A page of another site cannot send this type unasked, so it stays required."""
    kind, _, _ = request.headers.get("content-type", "").partition(";")
    subtype = kind.strip().lower().removeprefix("application/")
    if subtype == "json" or subtype.endswith("+json") or request.headers.get("content-length") == "0":
        return
    came = f"got {kind.strip()!r}" if kind.strip() else "there is none"
    raise HTTPException(415, f"expected the header Content-Type: application/json, {came}; with curl, -H says it")


def _as_written(path: Sequence[int | str], body: object, *, missing: bool) -> list[int | str]:
    """The steps of a path that lead through the body: others are names of pydantic's, of a union's members."""
    written, here = [], body
    for number, step in enumerate(path):
        last = number == len(path) - 1
        inside = isinstance(here, list) and isinstance(step, int) and step < len(here)
        if inside or (isinstance(here, dict) and step in here):
            here = here[step]  # type: ignore[index]
        elif not (missing and last):
            continue
        written.append(step)
    return written


def _shown(value: object) -> str:
    shown = json.dumps(value, ensure_ascii=False, default=str)
    return shown if len(shown) <= MAX_SHOWN_CHARS else f"{shown[:MAX_SHOWN_CHARS]}…"
