"""Coming in with a browser: a key is shown once, a cookie stands for it from then on; a link does the same, once.

The cookie is HttpOnly and SameSite=Strict. A key never enters an address, a cookie or a page.
"""

from typing import Annotated

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from services.inspector.web.rendering import Pages
from shared.contracts.http import LoginLink
from shared.http.access import AccessKeys, Grant, Scope, key_name
from shared.http.app import READ
from shared.http.sessions import LINK_S, LOGIN_PATH, SESSION_S, Sessions

HOME = "/"
WRONG_KEY = "This key is not one of the run's. They are in the file `key` of its directory, one a line."
USED_LINK = "This link was used already, or is older than ten minutes. `opcod status` prints a new one."

MAX_NEXT_CHARS = 8000
"""Of an address that is come back to: a search of 500 Chinese characters has 4500."""

Text = Annotated[str, Query(max_length=2000)]
Field = Annotated[str, Form(max_length=2000)]


def login_routes(pages: Pages, sessions: Sessions, keys: AccessKeys | None, public_url: str | None) -> APIRouter:
    """Without keys everybody may do everything, and the form leads home."""
    router = APIRouter()

    @router.get(LOGIN_PATH, include_in_schema=False)
    async def form(request: Request, next: str = HOME, once: Text | None = None) -> Response:
        if keys is None:
            return RedirectResponse(HOME, 303)
        if once is None or "head" in request.state:  # who checks a link must not use it up
            return _form(next, None)
        granted = sessions.redeem(once)
        return _form(next, USED_LINK, 403) if granted is None else _entered(request, granted, next)

    @router.post(LOGIN_PATH, include_in_schema=False)
    async def enter(request: Request, key: Field = "", next: Annotated[str, Form()] = HOME) -> Response:
        shown = key.strip()
        scope = Scope.ADMIN if keys is None else keys.scope_of(shown)
        if scope is None:
            return _form(next, WRONG_KEY, 403)
        return _entered(request, Grant(key_name(shown), scope), next)

    @router.post("/logout", include_in_schema=False, dependencies=READ)
    async def leave(request: Request) -> Response:
        sessions.end(request.headers)
        answer = RedirectResponse(LOGIN_PATH, 303)
        answer.delete_cookie(sessions.cookie)
        return answer

    @router.post("/v1/login-link", dependencies=READ)
    async def login_link(request: Request) -> LoginLink:
        """A path that logs a browser in once, with the scope of this request's key."""
        path = f"{LOGIN_PATH}?once={sessions.new_link(request.state.granted)}"
        return LoginLink(path=path, expires_s=LINK_S, public_url=public_url)

    def _form(next: str, problem: str | None, status_code: int = 200) -> HTMLResponse:
        return pages.page("login.html", scope=None, status_code=status_code, next=_own_path(next), problem=problem)

    def _entered(request: Request, granted: Grant, next: str) -> Response:
        answer = RedirectResponse(_own_path(next), 303)
        answer.set_cookie(
            sessions.cookie,
            sessions.begin(granted),
            max_age=int(SESSION_S),
            httponly=True,
            samesite="strict",
            secure=_is_secure(request),
        )
        return answer

    return router


def _is_secure(request: Request) -> bool:
    """Also where a proxy says so that uvicorn does not take for one, such as an Ingress: it can only add the flag."""
    said = request.headers.get("x-forwarded-proto", "")
    return request.url.scheme == "https" or said.split(",")[0].strip().lower() == "https"


def _own_path(next: str) -> str:
    """A path of this service, whatever was asked for: nobody is led elsewhere by a link to the login."""
    plain = next.startswith("/") and not next.startswith("//") and len(next) <= MAX_NEXT_CHARS
    return next if plain and next.isprintable() and "\\" not in next else HOME
