"""The pages: feed, exchange, run, ask. Complete without JavaScript, which adds what is live."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Form, Header, HTTPException, Path, Query, Request
from fastapi.responses import HTMLResponse

from services.inspector.broker import BrokerClient
from services.inspector.filters import MAX_INTEGER
from services.inspector.log import SMALL_KINDS
from services.inspector.run_data import RunData
from services.inspector.run_view import RunView
from services.inspector.sealed import SealedBatches
from services.inspector.store import Store
from services.inspector.stream import EventStream, Viewers
from services.inspector.views import ExchangeView
from services.inspector.web.live import live_feed, newest_place, place_of
from services.inspector.web.reading import (
    FeedQuery,
    LiveQuery,
    feed_query,
    filter_fields,
    live_query,
    read_exchange,
    read_feed,
)
from services.inspector.web.rendering import Pages, link
from services.inspector.web.run_text import run_tables
from shared.access import Scope
from shared.contracts.http import AskRequest, AskResponse
from shared.errors import ConfigError, UnavailableError
from shared.http import ASK, READ

HISTORY = 100
MAX_QUESTION = 20_000

Wanted = Annotated[FeedQuery, Depends(feed_query)]


@dataclass(frozen=True)
class Site:
    """What the pages read and write to."""

    store: Store
    batches: SealedBatches
    run: RunData
    broker: BrokerClient
    pages: Pages
    viewers: Viewers
    stopping: threading.Event


def page_routes(site: Site) -> APIRouter:
    router = APIRouter(include_in_schema=False, dependencies=READ)
    _reading_routes(router, site)
    _asking_routes(router, site)
    return router


def run_route(run: RunData) -> APIRouter:
    """The run's figures as JSON."""
    router = APIRouter(prefix="/v1", dependencies=READ)

    @router.get("/run")
    def show_run() -> RunView:
        return run.view()

    return router


def _reading_routes(router: APIRouter, site: Site) -> None:
    @router.get("/")
    def feed(request: Request, wanted: Wanted) -> HTMLResponse:
        """htmx asks for the same address when the form changes, and takes what it needs of the page."""
        found = read_feed(site.store, wanted)
        answer = site.pages.page("feed.html", scope=request.state.scope, feed=found)
        if "hx-request" in request.headers:
            answer.headers["HX-Push-Url"] = link("/", filter_fields(wanted))
        return answer

    @router.get("/live", response_class=EventStream)
    def live(
        wanted: Annotated[LiveQuery, Depends(live_query)],
        last_event_id: Annotated[str | None, Header(max_length=64)] = None,
    ) -> EventStream:
        """After `Last-Event-ID`, else after the place where the page was made (`after`), else from now on."""
        seen = last_event_id or wanted.after
        place = newest_place(site.store) if seen is None else place_of(seen)
        rows = live_feed(site.store, wanted, place, _row(site.pages, wanted), site.stopping)
        return EventStream(rows, site.viewers)

    @router.get("/feedback/{exchange_id}")
    def exchange(
        request: Request, wanted: Wanted, exchange_id: Annotated[int, Path(ge=1, le=MAX_INTEGER)]
    ) -> HTMLResponse:
        found = site.store.exchange(exchange_id)
        if found is None:
            raise HTTPException(404, f"there is no exchange {exchange_id}; the feed lists them")
        around = read_exchange(site.store, site.batches, found, wanted)
        return site.pages.page("exchange.html", scope=request.state.scope, around=around, filters=filter_fields(wanted))

    @router.get("/run")
    def run(request: Request) -> HTMLResponse:
        view = site.run.view()
        history = site.store.log.newest(SMALL_KINDS, HISTORY)
        return site.pages.page(
            "run.html", scope=request.state.scope, run=view, tables=run_tables(view), history=history
        )


def _asking_routes(router: APIRouter, site: Site) -> None:
    @router.get("/ask")
    def ask_form(request: Request, problem: Annotated[str, Query(max_length=MAX_QUESTION)] = "") -> HTMLResponse:
        return _ask_page(site, request.state.scope, problem)

    @router.post("/ask", dependencies=ASK)
    def ask(
        request: Request,
        problem: Annotated[str, Form(max_length=MAX_QUESTION)] = "",
        first: Annotated[str, Form(max_length=100)] = "",
    ) -> HTMLResponse:
        scope: Scope = request.state.scope
        answer, error, status_code = None, None, 200
        try:
            answer = site.broker.ask(_question(problem, first), scope)
        except ConfigError as refused:
            error, status_code = str(refused), 400
        except UnavailableError as away:
            error, status_code = str(away), 503
        return _ask_page(site, scope, problem, first=first, answer=answer, error=error, status_code=status_code)


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


def _row(pages: Pages, wanted: FeedQuery) -> Callable[[ExchangeView], str]:
    filters = filter_fields(wanted)
    return lambda exchange: pages.render("row.html", item=exchange, filters=filters)
