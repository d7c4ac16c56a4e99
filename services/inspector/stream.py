"""Live events for a browser: server-sent events out of the store, resumable by the id of the last one seen.

What always holds: a viewer gets every event after the one it names, in the order of the log, once a connection;
a waiting viewer costs no query and no thread; a slot is given back however its connection ends.
"""

import threading
from collections.abc import AsyncIterator

import anyio
from fastapi.responses import StreamingResponse
from prometheus_client import Gauge
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from services.inspector.store import LoggedRow, Store
from shared.guard import error_response

PAGE = 200
POLL_S = 0.2
KEEP_ALIVE_S = 15.0
RECONNECT_MS = 2000

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


class EventStream(StreamingResponse):
    """The response of /v1/stream. The slot is taken when it starts to be sent, so it cannot be left behind."""

    media_type = "text/event-stream"

    def __init__(self, content: AsyncIterator[bytes], viewers: Viewers) -> None:
        super().__init__(content, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._viewers = viewers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._viewers.enter():
            message = f"{self._viewers.limit} event streams are open, no more are served; close one or come back"
            await error_response(429, message, "rate_limit_error")(scope, receive, send)
            return
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._viewers.leave()


async def live_events(
    store: Store,
    position: int,
    stopping: threading.Event,
    *,
    poll_s: float = POLL_S,
    keep_alive_s: float = KEEP_ALIVE_S,
) -> AsyncIterator[bytes]:
    """Frames of all events behind `position`, then of new ones as they come, until `stopping`."""
    yield f"retry: {RECONNECT_MS}\n\n".encode()
    quiet_since_s = anyio.current_time()
    while not stopping.is_set():
        if store.head > position:
            rows = await run_in_threadpool(store.events_after, position, PAGE)
            for row in rows:
                yield frame(row)
            position = rows[-1].position
            quiet_since_s = anyio.current_time()
        elif anyio.current_time() - quiet_since_s >= keep_alive_s:
            yield b": still here\n\n"
            quiet_since_s = anyio.current_time()
        else:
            await anyio.sleep(poll_s)


def frame(row: LoggedRow) -> bytes:
    """One event on the wire. JSON has no line break outside its escapes, so `data` is always one line."""
    return f"id: {row.id}\nevent: {row.kind}\ndata: {row.body}\n\n".encode()
