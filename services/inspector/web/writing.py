"""The pages that send something on to the broker: a question to the peers, an act about an exchange."""

from typing import Annotated, Literal

from fastapi import APIRouter, Form, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from services.inspector.acting import act_path, silence_path
from services.inspector.api import ExchangeId, known_exchange
from services.inspector.web.pages import Site
from services.inspector.web.rendering import link
from shared.access import Scope
from shared.contracts.acting import MAX_REASON_CHARS, ReasonRequest, SilenceRequest
from shared.contracts.http import AskRequest, AskResponse
from shared.errors import ConfigError, UnavailableError
from shared.http import ADMIN, ASK, READ

MAX_QUESTION = 20_000

Question = Annotated[str, Form(max_length=MAX_QUESTION)]


def writing_routes(site: Site) -> APIRouter:
    router = APIRouter(include_in_schema=False)

    @router.get("/ask", dependencies=READ)
    def ask_form(request: Request, problem: Annotated[str, Query(max_length=MAX_QUESTION)] = "") -> HTMLResponse:
        return _ask_page(site, request.state.scope, problem)

    @router.post("/ask", dependencies=ASK)
    def ask(request: Request, problem: Question = "", first: Annotated[str, Form(max_length=100)] = "") -> HTMLResponse:
        scope: Scope = request.state.scope
        answer, error, status_code = None, None, 200
        try:
            answer = site.broker.ask(_question(problem, first), scope)
        except ConfigError as refused:
            error, status_code = str(refused), 400
        except HTTPException as refused:
            error, status_code = str(refused.detail), refused.status_code
        except UnavailableError as away:
            error, status_code = str(away), 503
        return _ask_page(site, scope, problem, first=first, answer=answer, error=error, status_code=status_code)

    @router.post("/feedback/{exchange_id}/act", dependencies=ADMIN)
    def act(
        request: Request,
        exchange_id: ExchangeId,
        act: Annotated[Literal["flag", "exclude", "silence"], Form()],
        reason: Annotated[str, Form(min_length=1, max_length=MAX_REASON_CHARS)],
    ) -> RedirectResponse:
        """Passed on to the broker; what comes of it is an event, which the page shows when it is loaded again."""
        exchange = known_exchange(site.store, exchange_id)
        if act == "silence":
            silence = SilenceRequest(reason=reason, tutor=exchange.tutor)
            site.broker.act(silence_path(exchange.run), silence, request.state.scope)
        else:
            site.broker.act(act_path(exchange, act), ReasonRequest(reason=reason), request.state.scope)
        return RedirectResponse(link(f"/feedback/{exchange_id}", {"asked": act}), 303)

    return router


def _ask_page(
    site: Site,
    scope: Scope,
    problem: str,
    *,
    first: str | None = None,
    answer: AskResponse | None = None,
    error: str | None = None,
    status_code: int = 200,
) -> HTMLResponse:
    said = {"problem": problem, "first": first, "answer": answer, "error": error}
    return site.pages.page("ask.html", scope=scope, status_code=status_code, said=said)


def _question(problem: str, first: str) -> AskRequest:
    if not problem.strip():
        raise ConfigError("expected a problem, got none; write one into the field")
    return AskRequest(problem=problem.strip(), first=first or None)
