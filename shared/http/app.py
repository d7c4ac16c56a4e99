"""What every HTTP service does alike: probes, metrics, scopes of routes, errors in OpenAI's shape."""

from collections.abc import Callable
from typing import Any

import structlog
from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

from shared.contracts.http import Readiness
from shared.errors import ConfigError, FencedError, OpcodError, RequestError, UnavailableError
from shared.http.access import AccessKeys, Limits, Scope
from shared.http.addresses import is_loopback
from shared.http.bodies import JsonRoute, invalid_response
from shared.http.guard import NOBODY_KNOWN, Guard, error_response
from shared.http.sessions import Sessions

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
    app = FastAPI(title=title, docs_url=None, redoc_url=None)
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
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _unexpected)
    return app


def needs(scope: Scope) -> Any:
    """For the `dependencies` of a route: the least scope that it takes. Raises ForbiddenError (403)."""

    async def check(request: Request) -> None:
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


def check_binding(host: str, keys: AccessKeys | None) -> None:
    """Raises ConfigError when a service without keys would listen beyond loopback."""
    if keys is None and not is_loopback(host):
        raise ConfigError(f"without a key a service only listens on loopback, not on {host}: set OPCOD_KEY_FILE")


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


async def _http_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    kind = "conflict_error" if error.status_code == 409 else "invalid_request_error"
    answer = error_response(error.status_code, str(error.detail), kind)
    answer.headers.update(error.headers or {})
    return answer


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    """The server logs it with its traceback; the client learns only that it was not its fault."""
    log.error("unexpected error", path=request.url.path, error=str(error), type=type(error).__name__)
    return error_response(500, "an unexpected error in this service; its log has the details", "server_error")
