"""What stands before every HTTP route: the key, its limits, the size of the body, the request's id.

Pure ASGI, so that a streamed answer counts as one request in flight until its end.
"""

import hashlib
import uuid
from collections import Counter

import structlog
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as AsgiScope

from shared.access import Keys, Limits, Scope
from shared.contracts.http import ErrorBody, ErrorResponse

OPEN_PATHS = frozenset({"/livez", "/readyz", "/metrics"})
RETRY_AFTER_S = 5
WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
CODES = {401: "invalid_api_key", 429: "rate_limit_exceeded"}


class Guard:
    """Refuses with 401, 411, 413 or 429; else the route finds the key's scope in `request.state.scope`."""

    def __init__(self, app: ASGIApp, *, keys: Keys | None, limits: Limits) -> None:
        self._app = app
        self._keys = keys
        self._limits = limits
        self._rate = RateLimitItemPerMinute(limits.requests_per_minute)
        self._window = MovingWindowRateLimiter(MemoryStorage())
        self._in_flight: Counter[str] = Counter()

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = headers.get("x-request-id", uuid.uuid4().hex)[:64]

        async def tagged(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        with structlog.contextvars.bound_contextvars(request=request_id):
            await self._admit(scope, receive, tagged, headers)

    async def _admit(self, scope: AsgiScope, receive: Receive, tagged: Send, headers: Headers) -> None:
        if scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, tagged)
            return
        caller, granted = self._caller(headers)
        refusal = self._refusal(scope["method"], headers, caller, granted)
        if refusal is not None:
            await refusal(scope, receive, tagged)
            return
        scope.setdefault("state", {})["scope"] = granted
        self._in_flight[caller] += 1
        try:
            await self._app(scope, receive, tagged)
        finally:
            self._in_flight[caller] -= 1

    def _caller(self, headers: Headers) -> tuple[str, Scope | None]:
        """A name for the key that tells nothing of it, and what it may do."""
        if self._keys is None:
            return "anyone", Scope.ADMIN
        kind, _, key = headers.get("authorization", "").partition(" ")
        granted = self._keys.scope_of(key) if kind.lower() == "bearer" else None
        return hashlib.sha256(key.encode()).hexdigest()[:12], granted

    def _refusal(self, method: str, headers: Headers, caller: str, granted: Scope | None) -> JSONResponse | None:
        if granted is None:
            return error_response(
                401, "expected 'Authorization: Bearer <key>' with a valid key", "authentication_error"
            )
        length = headers.get("content-length")
        if method in WITH_BODY and (length is None or not length.isdecimal()):
            return error_response(411, "expected a Content-Length header", "invalid_request_error")
        if length is not None and int(length) > self._limits.max_body_bytes:
            message = f"the body has {length} bytes; at most {self._limits.max_body_bytes} are taken"
            return error_response(413, message, "invalid_request_error")
        if self._in_flight[caller] >= self._limits.concurrent_requests:
            message = f"this key has {self._in_flight[caller]} requests in flight, as many as it may"
            return error_response(429, f"{message}; wait for one to end", "rate_limit_error")
        if not self._window.hit(self._rate, caller):
            message = f"this key made {self._limits.requests_per_minute} requests within a minute, as many as it may"
            return error_response(429, f"{message}; slow down", "rate_limit_error")
        return None


def request_id() -> str:
    """Of the request that is being answered; a new one elsewhere. It is in every line that is logged meanwhile."""
    found: str = structlog.contextvars.get_contextvars().get("request") or uuid.uuid4().hex
    return found


def error_response(
    status: int, message: str, kind: str, param: str | None = None, code: str | None = None
) -> JSONResponse:
    """An error in OpenAI's shape; 429 and 503 say when to try again."""
    body = ErrorResponse(error=ErrorBody(message=message, type=kind, code=code or CODES.get(status), param=param))
    headers = {"Retry-After": str(RETRY_AFTER_S)} if status in (429, 503) else {}
    return JSONResponse(body.model_dump(), status_code=status, headers=headers)
