"""Live events for a browser: server-sent events out of the store, resumable by the id of the last one seen.

What always holds: a viewer gets every event after the one it names, in the order of the log, once a connection;
a waiting viewer costs no query and no thread; a slot is given back however its connection ends; a stream ends with the
session that asked for it.
"""

import threading
from collections.abc import Callable
from typing import TypeVar

import anyio
from fastapi.sse import format_sse_event
from prometheus_client import Gauge
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from services.inspector.store.records import LOGGED_EVENT, Gap, gap_id
from services.inspector.store.store import LoggedRow, Store
from shared.http.guard import error_response
from shared.http.sse import EventStream, Frames

PAGE = 200
POLL_S = 0.2
KEEP_ALIVE_S = 15.0
RECONNECT_MS = 2000
ANEW = -1
"""In front of the whole log, for who comes from another one."""

Place = TypeVar("Place")

VIEWERS = Gauge("opcod_inspector_viewers", "Open event streams.")


class Viewers:
    """How many streams are open, of at most `limit`. Used from the event loop only."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.open = 0

    def enter(self) -> bool:
        """Take a slot; False if there is none."""
        if self.open >= self.limit:
            return False
        self.open += 1
        VIEWERS.inc()
        return True

    def leave(self) -> None:
        self.open -= 1
        VIEWERS.dec()


class ViewerStream(EventStream):
    """A stream to a viewer. The slot is taken when it starts to be sent, so it cannot be left behind."""

    def __init__(self, frames: Frames, viewers: Viewers) -> None:
        super().__init__(frames)
        self._viewers = viewers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # No await stands between the look at the count and the slot taken, and one event loop does both: two viewers
        # cannot share the last slot.
        if not self._viewers.enter():
            # The frames were never begun, so nobody else closes them.
            await self._frames.aclose()
            message = f"{self._viewers.limit} event streams are open, no more are served; close one or come back"
            await error_response(429, message, "rate_limit_error")(scope, receive, send)
            return
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._viewers.leave()


def ends_with(request: Request, stopping: threading.Event) -> Callable[[], bool]:
    """Whether a stream is over: the service stops, or the session that asked for it has ended."""
    return lambda: stopping.is_set() or not request.state.still_in()


async def follow(
    store: Store,
    place: Place,
    position: Callable[[Place], int],
    news: Callable[[Place], tuple[list[bytes], Place]],
    ended: Callable[[], bool],
    *,
    poll_s: float = POLL_S,
    keep_alive_s: float = KEEP_ALIVE_S,
) -> Frames:
    """What `news` tells after `place`, and after the place that it returns, whenever the log grew, until it `ended`.

    position: how far in the log a place is. news: runs in a thread.
    """
    yield format_sse_event(retry=RECONNECT_MS)
    quiet_since_s = anyio.current_time()
    while not ended():
        # Before any query: a viewer who has seen everything costs only this comparison.
        if store.head > position(place):
            messages, place = await run_in_threadpool(news, place)
            for each in messages:
                yield each
            # A log that grows by what this viewer is not told leaves the connection as quiet as before.
            quiet_since_s = anyio.current_time() if messages else quiet_since_s
        elif anyio.current_time() - quiet_since_s >= keep_alive_s:
            # A comment: no client shows it, and no proxy takes the connection for idle.
            yield format_sse_event(comment="still here")
            quiet_since_s = anyio.current_time()
        else:
            await anyio.sleep(poll_s)


def live_events(
    store: Store,
    position: int,
    ended: Callable[[], bool],
    *,
    lost: str | None = None,
    poll_s: float = POLL_S,
    keep_alive_s: float = KEEP_ALIVE_S,
) -> Frames:
    """Frames of all events behind `position`, then of new ones as they come, until it `ended`.

    lost: the id that the viewer saw last, of a log that is no more; instead, a gap and all events are told.
    """

    def news(behind: int) -> tuple[list[bytes], int]:
        # A page at a time, so that who comes late does not hold a thread for the whole log.
        # ANEW is a place, and no position of the log.
        rows = store.events_after(max(behind, 0), PAGE)
        gaps = []
        if behind == ANEW and lost is not None:
            gap = gap_before(rows[0], lost)
            gaps = [format_sse_event(data_str=gap.model_dump_json(), id=gap_id(rows[0].id), event=gap.kind)]
        return [*gaps, *(frame(row) for row in rows)], rows[-1].position

    # In front of position 0, so that the gap is told once: with the first page the place leaves ANEW for good.
    start = position if lost is None else ANEW
    return follow(store, start, lambda at: max(at, 0), news, ended, poll_s=poll_s, keep_alive_s=keep_alive_s)


def gap_before(first: LoggedRow, lost: str) -> Gap:
    """As ingest tells a stream that began anew, in front of the log's first event, for who saw `lost` of another."""
    at = LOGGED_EVENT.validate_json(first.body).at
    return Gap(at=at, source="inspector", after=lost, before=first.id, reason="restarted")


def frame(row: LoggedRow) -> bytes:
    return format_sse_event(data_str=row.body, id=row.id, event=row.kind)
