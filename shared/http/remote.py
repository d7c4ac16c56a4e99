"""Calls that wait for Redis or for another service, made for HTTP requests: in threads of their own.

What always holds: a server that is away holds these threads and no others, so whatever needs memory or files alone is
answered as ever; nobody waits for a free thread longer than the deadline.
"""

import functools
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

import anyio
from anyio import to_thread

from shared.errors import UnavailableError

THREADS = 40
"""As many as the event loop has for everything else."""

Given = ParamSpec("Given")
Answer = TypeVar("Answer")


class RemoteCalls:
    """Of one service. deadline_s: of a single call to the server, which is also how long one waits for a thread."""

    def __init__(self, deadline_s: float, *, threads: int = THREADS) -> None:
        self._deadline_s = deadline_s
        self._threads = threads
        self._free = anyio.Semaphore(threads)
        self._limiter = anyio.CapacityLimiter(threads)

    async def make(self, call: Callable[Given, Answer], *args: Given.args, **kwargs: Given.kwargs) -> Answer:
        """The answer of `call`, or what it raises. Raises UnavailableError when no thread gets free in time."""
        try:
            # The deadline is that of waiting for a thread. The call has one of its own, and a thread cannot be
            # cancelled.
            with anyio.fail_after(self._deadline_s):
                await self._free.acquire()
        except TimeoutError as error:
            raise UnavailableError(
                f"{self._threads} requests wait for Redis or another service already, and none got its answer within "
                f"{self._deadline_s:g} s; look at `opcod status`, and try again"
            ) from error
        try:
            # Never waited for: the semaphore lets in as many. The limiter keeps these calls off the threads that all
            # else uses.
            return await to_thread.run_sync(functools.partial(call, *args, **kwargs), limiter=self._limiter)
        finally:
            self._free.release()

    def route(self, handler: Callable[Given, Answer]) -> Callable[Given, Awaitable[Answer]]:
        """Decorates a route that makes such a call."""

        @functools.wraps(handler)
        async def waiting(*args: Given.args, **kwargs: Given.kwargs) -> Answer:
            return await self.make(handler, *args, **kwargs)

        return waiting
