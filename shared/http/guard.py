"""What stands before every HTTP route: the key, its limits, the size of the body, the request's id, HEAD as GET.

Pure ASGI, so that a streamed answer counts as one request in flight until its end.

It also refuses what another site makes a browser send. No page can set the headers that tell. Sec-Fetch-Site is the
browser's word on page and address as it sees both, whatever a proxy then does to Host, but it is sent to https and
localhost only. Origin comes with whatever may change something; it says where the page is from and no more, so it is
held against Host. Neither sees DNS rebinding, where a site points its own name at this machine and so asks itself: only
the name in Host tells.
"""

import re
import uuid
from collections import Counter
from collections.abc import Callable
from urllib.parse import urlencode, urlsplit

import structlog
from anyio import CancelScope, current_time, fail_after
from fastapi import HTTPException
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as AsgiScope

from shared.contracts.http import ErrorBody, ErrorResponse
from shared.errors import presentable, shown
from shared.http.access import AccessKeys, Grant, Limits, Scope, key_name
from shared.http.addresses import needs_dns, split_place
from shared.http.sessions import LOGIN_PATH, Sessions, is_open

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
MAX_SHOWN_CHARS = 100
PORTS = {"http": 80, "https": 443}


OPEN_PATHS = frozenset({"/livez", "/readyz", "/metrics"})
RETRY_AFTER_S = 5
HTMX = "hx-request"
"""The header of all that htmx asks for, streams too."""

NOBODY_KNOWN = "anyone"
"""The caller where there are no keys."""

VISITOR = "visitor"
"""Everybody without a key together, whatever they send: strangers share one rate, and leave nothing behind."""

MAX_ID_CHARS = 64
WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
# Digits and not many: int() takes signs, blanks and underscores, too, and numbers of any length.
_LENGTH = re.compile(r"[0-9]{1,18}")
CODES = {401: "invalid_api_key", 429: "rate_limit_exceeded"}


class Guard:
    """Refuses with 400, 401, 403, 408, 411, 413 or 429; else the route finds in `request.state` the `scope` of the key
    and what was `granted` with it, the name of key or session as `caller`, and `still_in` to ask whether it may go on:
    until its session ends. With `request.state.head` only the headers of the answer are wanted.

    With `sessions`, a browser's cookie counts as a key and a page without one leads to the login. Where nothing but the
    browser speaks for a caller, by a cookie or because there are no keys, what another site makes it send is refused.
    """

    def __init__(
        self, app: ASGIApp, *, keys: AccessKeys | None, limits: Limits, sessions: Sessions | None = None
    ) -> None:
        self._app = app
        self._keys = keys
        self._sessions = sessions
        self._limits = limits
        # Counted in memory: a limit is that of one process of one service, and a restart forgets it.
        self._rate = RateLimitItemPerMinute(limits.requests_per_minute)
        self._window = MovingWindowRateLimiter(MemoryStorage())
        self._in_flight: Counter[str] = Counter()

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        # It goes into every line of the log, so nothing that a terminal would obey.
        wished = headers.get("x-request-id", "")[:MAX_ID_CHARS]
        request_id = wished if wished.isascii() and wished.isprintable() and wished else uuid.uuid4().hex

        async def tagged(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        with structlog.contextvars.bound_contextvars(request=request_id):
            await self._admit(scope, receive, tagged, headers)

    async def _admit(self, scope: AsgiScope, receive: Receive, tagged: Send, headers: Headers) -> None:
        unnamed = _unnamed(headers)
        # Probes have no key, and are answered also while a key has used up what it may.
        if unnamed is None and scope["path"] in OPEN_PATHS:
            await self._pass_on(scope, receive, tagged)
            return
        caller, granted = self._caller(headers)
        # In this order: only what could be let in counts against a rate.
        refusal = (
            unnamed
            or self._foreign(scope["method"], headers, granted)
            or self._stranger(scope, headers, granted)
            or self._excess(scope["method"], headers, caller)
        )
        if refusal is not None:
            await refusal(scope, receive, tagged)
            return
        allowed = granted.scope if granted is not None else None
        scope.setdefault("state", {}).update(
            granted=granted, scope=allowed, caller=caller, still_in=self._still_in(headers)
        )
        self._in_flight[caller] += 1
        try:
            await self._pass_on(scope, _timely(receive, self._limits.body_s), tagged)
        finally:
            self._in_flight[caller] -= 1
            # Or every caller that ever was would stay in memory.
            if not self._in_flight[caller]:
                del self._in_flight[caller]

    async def _pass_on(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """To the route; HEAD to that of GET, whose answer ends with its headers. A stream would have no other end."""
        if scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        with CancelScope() as answered:

            async def headers_only(message: Message) -> None:
                if message["type"] == "http.response.start":
                    await send(message)
                    answered.cancel()

            state = scope.get("state", {}) | {"head": True}
            await self._app({**scope, "method": "GET", "state": state}, receive, headers_only)
        await send({"type": "http.response.body"})

    def _caller(self, headers: Headers) -> tuple[str, Grant | None]:
        """A name for the key or session that tells nothing of it, and what it may do."""
        if self._keys is None:
            return NOBODY_KNOWN, Grant(NOBODY_KNOWN, Scope.ADMIN)
        kind, _, key = headers.get("authorization", "").partition(" ")
        if not kind and self._sessions is not None:
            return self._sessions.caller(headers) or (VISITOR, None)
        scope = self._keys.scope_of(key) if kind.lower() == "bearer" else None
        if scope is None:
            return VISITOR, None
        return key_name(key), Grant(key_name(key), scope)

    def _still_in(self, headers: Headers) -> Callable[[], bool]:
        """For answers that have no end of their own. Keys stay as long as the service."""
        sessions = self._sessions
        if sessions is None or self._keys is None or "authorization" in headers:
            return lambda: True
        return lambda: sessions.caller(headers) is not None

    def _foreign(self, method: str, headers: Headers, granted: Grant | None) -> Response | None:
        """The refusal of what another site makes a browser send. It cannot make one send an Authorization header."""
        with_keys, host = self._keys is not None, headers.get("host")
        if not with_keys and may_be_rebound(host):
            message = (
                f"without keys this service is called localhost or by its address, not {shown(host)}, which any site "
                "could have pointed here; ask http://localhost, or give it keys (OPCOD_KEY_FILE)"
            )
            return error_response(403, message, "permission_error")
        if method in SAFE_METHODS or "authorization" in headers or (with_keys and self._sessions is None):
            return None
        reason = from_elsewhere(headers, with_keys=with_keys)
        if reason is None and with_keys and granted is not None and not says_its_origin(headers):
            reason = "expected Origin or Sec-Fetch-Site beside a session's cookie, got neither; send a key in its place"
        return None if reason is None else error_response(403, reason, "permission_error")

    def _stranger(self, scope: AsgiScope, headers: Headers, granted: Grant | None) -> Response | None:
        """The refusal of who has no key."""
        if granted is not None or (self._sessions is not None and is_open(scope["path"])):
            return None
        if self._sessions is not None and is_navigation(headers):
            query = scope["query_string"].decode("latin-1")
            wanted = scope["path"] + (f"?{query}" if query else "")
            # What was sent cannot be gone to again; the page that sent it can.
            seen = wanted if scope["method"] in SAFE_METHODS else path_of(headers.get("referer", ""))
            return RedirectResponse(_login(seen), status_code=303)
        answer = error_response(401, "expected 'Authorization: Bearer <key>' with a valid key", "authentication_error")
        if self._sessions is not None and HTMX in headers:
            # Followed, a redirect would put the login's page into the part that was asked for.
            answer.headers["HX-Redirect"] = _login(path_of(headers.get("hx-current-url", "")))
        return answer

    def _excess(self, method: str, headers: Headers, caller: str) -> JSONResponse | None:
        """The refusal of what is too large or too much."""
        length = headers.get("content-length")
        if method in WITH_BODY and (length is None or "transfer-encoding" in headers):
            # With both, servers read what the latter says, however much that is.
            message = "expected a Content-Length header, and no Transfer-Encoding"
            return error_response(411, message, "invalid_request_error")
        if length is not None and _LENGTH.fullmatch(length) is None:
            message = f"expected a number of bytes as Content-Length, got {length[:MAX_ID_CHARS]!r}"
            return error_response(400, message, "invalid_request_error")
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


def _timely(receive: Receive, within_s: float) -> Receive:
    """The same; it raises HTTPException (408) where the body has not come `within_s` after it was first asked for. Who
    sends a part of it and no more would be in flight for as long as the connection."""
    deadline_s: float | None = None
    is_whole = False

    async def received() -> Message:
        nonlocal deadline_s, is_whole
        if is_whole:
            return await receive()
        now_s = current_time()
        deadline_s = deadline_s if deadline_s is not None else now_s + within_s
        try:
            with fail_after(deadline_s - now_s):
                message = await receive()
        except TimeoutError as error:
            told = f"expected the whole body within {within_s:g} s, it did not come; send it again"
            raise HTTPException(408, told, {"Connection": "close"}) from error
        is_whole = not message.get("more_body", False)
        return message

    return received


def _unnamed(headers: Headers) -> Response | None:
    """The refusal of a Host that is none: everything that writes an address out of it would fail."""
    host = headers.get("host")
    if not is_malformed(host):
        return None
    message = f"expected a Host header such as box:8000 or [::1]:8000, got {shown(host)}"
    return error_response(400, message, "invalid_request_error")


def is_navigation(headers: Headers) -> bool:
    """Whether a person is to see the answer as a page: not a script, which may put it into one that is open."""
    return "text/html" in headers.get("accept", "") and HTMX not in headers


def path_of(address: str) -> str:
    """Path and query of a page's address; `/` where it is none."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return "/"
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _login(wanted: str) -> str:
    return f"{LOGIN_PATH}?{urlencode({'next': wanted})}"


def request_id() -> str:
    """Of the request that is being answered; a new one elsewhere. It is in every line that is logged meanwhile."""
    found: str = structlog.contextvars.get_contextvars().get("request") or uuid.uuid4().hex
    return found


def error_response(
    status: int, message: str, kind: str, param: str | None = None, code: str | None = None
) -> JSONResponse:
    """An error in OpenAI's shape; 429 and 503 say when to try again."""
    body = ErrorResponse(
        error=ErrorBody(message=presentable(message), type=kind, code=code or CODES.get(status), param=param)
    )
    headers = {"Retry-After": str(RETRY_AFTER_S)} if status in (429, 503) else {}
    return JSONResponse(body.model_dump(), status_code=status, headers=headers)


def from_elsewhere(headers: Headers, *, with_keys: bool) -> str | None:
    """Why this is taken for another site's request, and what to do; None if it is not.

    with_keys: a cookie is needed to do anything, and is sent to the name that it was given by. So Sec-Fetch-Site is
    enough, and a proxy may call this service by another name than the page has.
    """
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None and site != "same-origin":
        shown = site[:MAX_SHOWN_CHARS]
        return f"expected a request of this service's own page, Sec-Fetch-Site says {shown!r}; open the page itself"
    if origin is None or (site is not None and with_keys) or _is_place(origin, headers.get("host", "")):
        return None
    here, page = headers.get("host", "")[:MAX_SHOWN_CHARS], origin[:MAX_SHOWN_CHARS]
    return (
        f"expected a request of this service's own page, but its Origin is {page!r} and its Host {here!r}; open the "
        "page itself, or if a proxy stands before it, let that pass on the Host it was asked for (nginx: "
        "proxy_set_header Host $http_host)"
    )


def says_its_origin(headers: Headers) -> bool:
    return "sec-fetch-site" in headers or "origin" in headers


def is_malformed(host: str | None) -> bool:
    """Whether a Host header is neither a name nor an address. One that is missing is not: HTTP/1.0 has none."""
    return host is not None and split_place(host) is None


def may_be_rebound(host: str | None) -> bool:
    """Whether the name asked for is one that any site may point here, which localhost and addresses are not."""
    found = split_place(host) if host is not None else None
    return found is not None and needs_dns(found[0])


def _is_place(origin: str, host: str) -> bool:
    """Whether pages of `origin` are at `host`; either may leave out the port that its scheme implies."""
    scheme, _, rest = origin.partition("://")
    page, here, implied = split_place(rest), split_place(host), PORTS.get(scheme)
    if page is None or here is None or implied is None:
        return False
    return (page[0], page[1] or implied) == (here[0], here[1] or implied)
