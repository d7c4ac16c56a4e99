"""The inspector's JSON API: exchanges with filters and full text, the log of events, a live stream, an export."""

import threading
from typing import Annotated

from fastapi import APIRouter, Header, HTTPException, Path, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import Field, model_validator

from services.inspector.http.export import MEDIA_TYPES, SCHEMA, Format, Rows, exported
from services.inspector.http.stream import KEEP_ALIVE_S, Viewers, ViewerStream, ends_with, gap_before, live_events
from services.inspector.http.views import EventPage, EventView, ExchangeView, FeedbackPage, TraceView, event_view
from services.inspector.store.filters import MAX_INTEGER, ExchangeFilter, Whole
from services.inspector.store.records import START, gap_id
from services.inspector.store.sealed import SealedBatches
from services.inspector.store.store import Store
from services.inspector.store.traces import Traces
from shared.errors import ConfigError, NotFoundError
from shared.http.app import READ
from shared.http.sse import EVENTS

MAX_PAGE = 200

StreamId = Annotated[str, Query(max_length=64)]
ExchangeId = Annotated[int, Path(ge=1, le=MAX_INTEGER)]


class FeedbackQuery(ExchangeFilter):
    """before and after are exchange ids; only one of them at a time."""

    before: Whole | None = None
    after: Whole | None = None
    limit: int = Field(default=50, ge=1, le=MAX_PAGE)

    @model_validator(mode="after")
    def _one_direction(self) -> "FeedbackQuery":
        if self.before is not None and self.after is not None:
            raise ValueError("expected before or after, got both: a page goes one way")
        return self


class ExportQuery(ExchangeFilter):
    format: Format = "jsonl"
    rows: Rows = "exchanges"


def inspector_routes(
    store: Store,
    sealed: SealedBatches,
    traces: Traces,
    *,
    stopping: threading.Event,
    viewers: Viewers,
    keep_alive_s: float = KEEP_ALIVE_S,
) -> APIRouter:
    """All routes under /v1, over one store, the sealed batches and the traces of its run."""
    router = APIRouter(prefix="/v1", dependencies=READ)

    @router.get("/feedback")
    def feedback(query: Annotated[FeedbackQuery, Query()]) -> FeedbackPage:
        return feedback_page(store, query)

    @router.get("/feedback/{exchange_id}")
    def one_exchange(exchange_id: ExchangeId) -> ExchangeView:
        return known_exchange(store, exchange_id)

    @router.get("/feedback/{exchange_id}/trace")
    def one_trace(exchange_id: ExchangeId) -> TraceView:
        """404 where this rollout was not traced; the message says why."""
        try:
            return traces.of(known_exchange(store, exchange_id))
        except NotFoundError as error:
            raise HTTPException(404, str(error)) from error

    @router.get("/events")
    def events(after: StreamId = START, limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = MAX_PAGE) -> EventPage:
        """Where the log does not reach as far as `after`, a gap is told first, then all of it, as by /v1/stream."""
        return event_page(store, after, limit)

    @router.get("/stream", response_class=StreamingResponse, responses=EVENTS)
    def stream(
        request: Request,
        after: StreamId | None = None,
        last_event_id: Annotated[str | None, Header(max_length=64)] = None,
    ) -> ViewerStream:
        """From the event after `Last-Event-ID`, else after `after`, else from now on. Where the log does not reach that
        far, it is another one than the caller saw: a gap is told, then all of it."""
        seen = last_event_id or after
        position = store.head if seen is None else _position(store, seen)
        lost = seen if seen is not None and store.is_beyond(seen) else None
        ended = ends_with(request, stopping)
        return ViewerStream(live_events(store, position, ended, lost=lost, keep_alive_s=keep_alive_s), viewers)

    @router.get("/export", response_class=StreamingResponse, responses=SCHEMA)
    def export(query: Annotated[ExportQuery, Query()]) -> StreamingResponse:
        headers = {"Content-Disposition": f'attachment; filename="{query.rows}.{query.format}"'}
        pieces = exported(store, sealed, query, query.format, query.rows)
        return StreamingResponse(pieces, media_type=MEDIA_TYPES[query.format], headers=headers)

    return router


def known_exchange(store: Store, exchange_id: int) -> ExchangeView:
    """Raises HTTPException (404) if there is none."""
    found = store.exchange(exchange_id)
    if found is None:
        raise HTTPException(404, f"there is no exchange {exchange_id}; GET /v1/feedback lists them")
    return found


def feedback_page(store: Store, query: FeedbackQuery) -> FeedbackPage:
    """One page, newest first. With `after`, the oldest ones behind it, so that no page skips an exchange."""
    cursor = store.newest_event_id()
    if query.after is None:
        items = store.newest_exchanges(query, before=query.before, limit=query.limit)
    else:
        # Read oldest first, as the newest of many would leave a hole behind `after`; shown newest first, as every page.
        items = store.exchanges_between(query, after=query.after, limit=query.limit)[::-1]
    full = len(items) == query.limit
    newest = items[0].id if items else (query.after or 0)
    # A page that is not full ends the log, but for one that went forwards: there are always older ones behind it.
    older = items[-1].id if items and (full or query.after is not None) else None
    return FeedbackPage(items=tuple(items), older=older, newest=newest, cursor=cursor)


def event_page(store: Store, after: str, limit: int) -> EventPage:
    """Raises ConfigError if `after` is no id of a stream."""
    position = _position(store, after)
    lost = store.is_beyond(after)
    rows = store.events_after(0 if lost else position, limit)
    items = [event_view(row.id, row.kind, row.body) for row in rows]
    if lost and rows:
        gap = gap_before(rows[0], after)
        # The gap takes a place of the page, so that no page has more than was asked for; the last event comes with the
        # next.
        items = [EventView(id=gap_id(rows[0].id), kind=gap.kind, event=gap), *items][:limit]
    return EventPage(items=tuple(items), cursor=items[-1].id if items else after)


def _position(store: Store, stream_id: str) -> int:
    try:
        return store.position_of(stream_id)
    except ValueError as error:
        raise ConfigError(str(error)) from error
