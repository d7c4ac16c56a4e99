"""Answers that come bit by bit as server-sent events, and work that ends when nobody waits for it any more.

What always holds: an error before the first event is an ordinary error response; when the client goes away, what
makes the events is cancelled and closed.
"""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from shared.errors import OpcodError, RequestError, UnavailableError
from shared.http.app import opcod_error_response

Result = TypeVar("Result")
Frames = AsyncGenerator[bytes, None]
EVENT_STREAM = "text/event-stream"
EVENTS: dict[int | str, dict[str, Any]] = {200: {"content": {EVENT_STREAM: {"schema": {"type": "string"}}}}}
"""For the `responses` of a route that may stream."""
DONE = b"data: [DONE]\n\n"
"""How OpenAI ends a stream."""


class ClientGoneError(RequestError):
    """The client closed the connection before its answer was there; nobody reads this."""

    def __init__(self) -> None:
        super().__init__("the client closed the connection before its answer was there", status=499)


class EventStream(StreamingResponse):
    """Server-sent events out of a generator that is closed however the connection ends."""

    # Not FastAPI's EventSourceResponse: its routes yield, and the status is then sent before the first event, so that
    # an error before it could not be a response of its own any more.
    media_type = EVENT_STREAM

    def __init__(self, frames: Frames) -> None:
        super().__init__(frames, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._frames = frames

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            # Starlette stops asking when the client goes, but leaves the generator suspended until it is collected.
            await self._frames.aclose()


def frame(body: BaseModel, event: str | None = None) -> bytes:
    return format_sse_event(data_str=body.model_dump_json(), event=event)


async def open_stream(request: Request, frames: Frames) -> EventStream:
    """The stream, once its first frame is there. Raises what `frames` raises before, UnavailableError without one."""
    async with AsyncExitStack() as on_error:
        on_error.push_async_callback(frames.aclose)
        first = await unless_gone(request, _first(frames))
        on_error.pop_all()
    return EventStream(_from(first, frames))


async def unless_gone(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`; cancels it and raises ClientGoneError if the client closes the connection meanwhile."""
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGoneError
        return working.result()
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _first(frames: Frames) -> bytes:
    async for each in frames:
        return each
    raise UnavailableError("the answer ended before its first event; ask again")


async def _from(first: bytes, frames: Frames) -> Frames:
    """`first`, then the rest; an error on the way is the last event."""
    try:
        yield first
        async for each in frames:
            yield each
    except OpcodError as error:
        yield format_sse_event(data_str=bytes(opcod_error_response(error).body).decode(), event="error")
    finally:
        await frames.aclose()
