"""The pages that are read: feed, exchange, run. Complete without JavaScript, which adds what is live."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Header, HTTPException, Query, Request
from fastapi.responses import HTMLResponse

from services.inspector.http.api import ExchangeId, known_exchange
from services.inspector.http.broker import BrokerClient
from services.inspector.http.stream import Viewers, ViewerStream, ends_with
from services.inspector.run.view import RunData, RunsView, RunView
from services.inspector.store.log import SMALL_KINDS
from services.inspector.store.sealed import SealedBatches
from services.inspector.store.store import Store
from services.inspector.store.traces import Traces
from services.inspector.web.colouring import measures_of
from services.inspector.web.folding import FeedRow
from services.inspector.web.live import live_feed, newest_place, place_of
from services.inspector.web.reading import (
    ExchangeQuery,
    FeedQuery,
    LiveQuery,
    exchange_query,
    feed_query,
    filter_fields,
    live_query,
    read_exchange,
    read_feed,
    read_group,
)
from services.inspector.web.rendering import Pages, link
from services.inspector.web.run_tables import outcomes, run_tables
from shared.errors import NotFoundError
from shared.http.app import READ
from shared.http.guard import HTMX
from shared.http.remote import RemoteCalls
from shared.results.comparison import Comparison
from shared.results.comparison_text import grids, notes, verdict_lines

HISTORY = 100
MAX_CHOSEN = 12
"""Runs in one chart: more colours are not told apart."""

Beside = Annotated[str | None, Query(max_length=100)]
Chosen = Annotated[tuple[str, ...], Query(alias="run", max_length=MAX_CHOSEN)]
Wanted = Annotated[FeedQuery, Depends(feed_query)]


@dataclass(frozen=True)
class Site:
    """What the pages read and write to."""

    store: Store
    batches: SealedBatches
    traces: Traces
    run: RunData
    broker: BrokerClient
    calls: RemoteCalls
    pages: Pages
    viewers: Viewers
    stopping: threading.Event


def run_route(run: RunData, calls: RemoteCalls) -> APIRouter:
    """The run's figures as JSON."""
    router = APIRouter(prefix="/v1", dependencies=READ)

    @router.get("/run")
    @calls.route
    def show_run(beside: Beside = None) -> RunView:
        """With `beside`, also the results of another run of the same directory."""
        return run.view(beside or None)

    @router.get("/runs")
    @calls.route
    def show_runs(runs: Chosen = ()) -> RunsView:
        """Every run of the directory, and the results of those that are named."""
        return run.runs(runs)

    return router


def feedback_routes(site: Site) -> APIRouter:
    """The feed, and what is behind each of its rows."""
    router = APIRouter(include_in_schema=False, dependencies=READ)

    @router.get("/")
    def feed(request: Request, wanted: Wanted) -> HTMLResponse:
        """htmx asks for the same address when the form changes, and takes what it needs of the page."""
        found = read_feed(site.store, wanted)
        answer = site.pages.page(
            "feed.html",
            scope=request.state.scope,
            feed=found,
            domain_options=[(name, name) for name in site.run.domains],
        )
        if HTMX in request.headers:
            answer.headers["HX-Push-Url"] = link("/", found.filters, found.shown)
        return answer

    @router.get("/live", response_class=ViewerStream)
    def live(
        request: Request,
        wanted: Annotated[LiveQuery, Depends(live_query)],
        last_event_id: Annotated[str | None, Header(max_length=64)] = None,
    ) -> ViewerStream:
        """After `Last-Event-ID`, else after the place where the page was made (`after`), else from now on."""
        seen = last_event_id or wanted.after
        place = newest_place(site.store) if seen is None else place_of(seen)
        rows = live_feed(site.store, wanted, place, _row(site.pages, wanted), ends_with(request, site.stopping))
        return ViewerStream(rows, site.viewers)

    @router.get("/feedback/{exchange_id}")
    def exchange(
        request: Request, wanted: Annotated[ExchangeQuery, Depends(exchange_query)], exchange_id: ExchangeId
    ) -> HTMLResponse:
        found = known_exchange(site.store, exchange_id)
        around = read_exchange(site.store, site.batches, site.traces, found, wanted)
        measures = measures_of(around.trace.tokens if around.trace else ())
        filters = filter_fields(wanted)
        return site.pages.page(
            "exchange.html",
            scope=request.state.scope,
            around=around,
            filters=filters,
            asked=wanted.asked,
            measures=measures,
            # An address from a newer trace may ask for what an older one has not.
            measure=measures.get(wanted.colour, measures["divergence"]),
            domains=site.run.domains,
            over=site.run.trained(),
        )

    @router.get("/feedback/{exchange_id}/group")
    def group(
        request: Request, wanted: Annotated[ExchangeQuery, Depends(exchange_query)], exchange_id: ExchangeId
    ) -> HTMLResponse:
        """All rollouts of the problem that the exchange is about."""
        found = read_group(site.store, site.batches, known_exchange(site.store, exchange_id), wanted)
        return site.pages.page("group.html", scope=request.state.scope, group=found, filters=filter_fields(wanted))

    return router


def run_routes(site: Site) -> APIRouter:
    """The run, the runs beside it, and comparisons."""
    router = APIRouter(include_in_schema=False, dependencies=READ)

    @router.get("/glance")
    @site.calls.route
    def glance(request: Request) -> HTMLResponse:
        """A part of the feed's page, which asks for it again and again."""
        return site.pages.page("glance.html", scope=request.state.scope, glance=site.run.glance())

    @router.get("/run")
    @site.calls.route
    def run(request: Request, beside: Beside = None) -> HTMLResponse:
        view = site.run.view(beside or None)
        history = site.store.log.newest(SMALL_KINDS, HISTORY)
        return site.pages.page(
            "run.html",
            scope=request.state.scope,
            run=view,
            tables=run_tables(view),
            history=history,
            cut=len(history) == HISTORY,
        )

    @router.get("/runs")
    @site.calls.route
    def runs(request: Request, runs: Chosen = ()) -> HTMLResponse:
        view = site.run.runs(runs)
        return site.pages.page("runs.html", scope=request.state.scope, view=view, outcomes=outcomes(view.chosen))

    @router.get("/comparison")
    @site.calls.route
    def comparison(request: Request, name: Annotated[str, Query(max_length=200)]) -> HTMLResponse:
        try:
            found = site.run.comparison(name)
        except NotFoundError as error:
            raise HTTPException(404, str(error)) from error
        return site.pages.page(
            "comparison.html",
            scope=request.state.scope,
            comparison=found,
            lines=verdict_lines(found),
            grids=grids(found),
            notes=notes(found),
            by_seed=_by_seed(found),
        )

    return router


def _row(pages: Pages, wanted: FeedQuery) -> Callable[[FeedRow], str]:
    filters = filter_fields(wanted)
    return lambda row: pages.render("row.html", row=row, filters=filters)


def _by_seed(comparison: Comparison) -> dict[int, list[str]]:
    """Its runs by seed, each once, and no more than one chart takes."""
    seeds = sorted({seed for method in comparison.methods for seed in method.runs})
    named = {seed: [method.runs[seed] for method in comparison.methods if seed in method.runs] for seed in seeds}
    return {seed: list(dict.fromkeys(names))[:MAX_CHOSEN] for seed, names in named.items()}
