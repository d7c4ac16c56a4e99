"""What every HTTP service does alike: probes, metrics, keys, body limits, request ids, errors in OpenAI's shape."""

import secrets
import uuid
from collections.abc import Awaitable, Callable

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

from shared.contracts.http import ErrorBody, ErrorResponse
from shared.errors import ConfigError, FencedError, OpcodError, UnavailableError

OPEN_PATHS = frozenset({"/livez", "/readyz", "/metrics"})
RETRY_AFTER_S = 5

Next = Callable[[Request], Awaitable[Response]]
log = structlog.get_logger()


def create_app(title: str, *, ready: Callable[[], str | None], key: str | None, max_body_bytes: int) -> FastAPI:
    """An app with /livez, /readyz and /metrics. `ready` gives None, or why it is not ready.

    With a `key`, every other path needs `Authorization: Bearer <key>`.
    """
    app = FastAPI(title=title, docs_url=None, redoc_url=None)

    @app.middleware("http")
    async def guard(request: Request, call_next: Next) -> Response:
        request_id = request.headers.get("x-request-id", uuid.uuid4().hex)[:64]
        refusal = _refuse(request, key, max_body_bytes)
        response = refusal if refusal is not None else await call_next(request)
        response.headers["x-request-id"] = request_id
        return response

    @app.get("/livez", include_in_schema=False)
    def livez() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz", include_in_schema=False)
    def readyz() -> JSONResponse:
        reason = ready()
        if reason is None:
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": "not ready", "reason": reason}, status_code=503)

    @app.get("/metrics", include_in_schema=False)
    def metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    app.add_exception_handler(OpcodError, _opcod_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _unexpected)
    return app


def error_response(status: int, message: str, kind: str, param: str | None = None) -> JSONResponse:
    body = ErrorResponse(error=ErrorBody(message=message, type=kind, code=str(status), param=param))
    headers = {"Retry-After": str(RETRY_AFTER_S)} if status in (429, 503) else {}
    return JSONResponse(body.model_dump(), status_code=status, headers=headers)


def check_binding(host: str, key: str | None) -> None:
    """Raises ConfigError when a service without a key would listen beyond loopback."""
    if key is None and host not in ("127.0.0.1", "::1", "localhost"):
        raise ConfigError(f"without a key a service only listens on loopback, not on {host}: set OPCOD_KEY_FILE")


def _refuse(request: Request, key: str | None, max_body_bytes: int) -> JSONResponse | None:
    if request.url.path in OPEN_PATHS:
        return None
    if key is not None and not _carries(request, key):
        return error_response(401, "expected 'Authorization: Bearer <key>' with a valid key", "authentication_error")
    length = request.headers.get("content-length")
    if request.method in ("POST", "PUT", "PATCH") and (length is None or not length.isdecimal()):
        return error_response(411, "expected a Content-Length header", "invalid_request_error")
    if length is not None and int(length) > max_body_bytes:
        message = f"the body has {length} bytes; at most {max_body_bytes} are taken"
        return error_response(413, message, "invalid_request_error")
    return None


def _carries(request: Request, key: str) -> bool:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    return scheme.lower() == "bearer" and secrets.compare_digest(given.encode(), key.encode())


async def _opcod_error(_request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, UnavailableError | FencedError):
        return error_response(503, str(error), "unavailable_error")
    if isinstance(error, ConfigError):
        return error_response(400, str(error), "invalid_request_error")
    log.error("request failed", error=str(error), type=type(error).__name__)
    return error_response(500, str(error), "server_error")


async def _invalid(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    param = ".".join(str(part) for part in first["loc"][1:])
    return error_response(422, f"{param or 'body'}: {first['msg']}", "invalid_request_error", param)


async def _http_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return error_response(error.status_code, str(error.detail), "invalid_request_error")


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    """The server logs it with its traceback; the client learns only that it was not its fault."""
    log.error("unexpected error", path=request.url.path, error=str(error), type=type(error).__name__)
    return error_response(500, "an unexpected error in this service; its log has the details", "server_error")
