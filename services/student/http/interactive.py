"""Requests of people, on their way from the event loop to the engine's thread and back: bounded, with deadlines.

What always holds: a request is bound to one exact version; it is answered, refused or late exactly once; at most
`bound` are unanswered, the running ones included; nothing is generated any further for one whose client left.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from services.student import metrics
from services.student.engines.port import Generation, GenerationRequest, Piece
from shared.errors import UnavailableError
from shared.http.guard import request_id

Result = TypeVar("Result")
Heard = tuple[int, Piece] | list[Generation]
"""The number of a sample and more of it; in the end all generations."""


class Listener:
    """Audience of one sample: passes pieces on, if anybody reads along, until its client leaves.

    alive: told with every piece that the engine works.
    """

    def __init__(
        self, left: threading.Event, pass_on: Callable[[Piece], None] | None, alive: Callable[[], None]
    ) -> None:
        self._left = left
        self._pass_on = pass_on
        self._alive = alive
        self.heard = False

    @property
    def gone(self) -> bool:
        return self._left.is_set()

    def tell(self, piece: Piece) -> None:
        self._alive()
        if self._pass_on is not None:
            self.heard = True
            self._pass_on(piece)


@dataclass(frozen=True, eq=False)
class Inquiry:
    """Samples for one HTTP request, all of the same version. left: set when its client has its answer, or left."""

    version: str
    requests: tuple[GenerationRequest, ...]
    left: threading.Event
    answer: "Future[list[Generation]]" = field(default_factory=Future)
    request_id: str = field(default_factory=request_id)


class InteractiveQueue:
    """`ask` and `stream` are for the event loop, everything else for the engine's thread."""

    def __init__(self, *, bound: int) -> None:
        self.alive: Callable[[], None] = lambda: None
        """Called with every piece of every answer."""
        self._bound = bound
        self._lock = threading.Lock()
        self._waiting: list[Inquiry] = []
        self._unanswered = 0
        self._closed = False

    async def ask(self, version: str, requests: Sequence[GenerationRequest], *, timeout_s: float) -> list[Generation]:
        """One generation a request. Raises UnavailableError if too many wait, or nothing came within `timeout_s`."""
        with self._entered(version, requests, None) as question:
            return await _within(asyncio.wrap_future(question.answer), timeout_s)

    async def stream(
        self, version: str, requests: Sequence[GenerationRequest], *, timeout_s: float
    ) -> AsyncGenerator[Heard, None]:
        """Pieces as they come, then the generations. `timeout_s`: the longest silence. Raises as `ask`."""
        heard: asyncio.Queue[Heard | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def pass_on(sample: int, piece: Piece) -> None:
            with suppress(RuntimeError):  # the loop was closed: nobody is there to hear it
                loop.call_soon_threadsafe(heard.put_nowait, (sample, piece))

        with self._entered(version, requests, pass_on) as question:
            answer = asyncio.wrap_future(question.answer)
            # Behind every piece: those were put on the loop before the answer was set.
            answer.add_done_callback(lambda _: heard.put_nowait(None))
            try:
                while (item := await _within(heard.get(), timeout_s)) is not None:
                    yield item
                # Raises what the engine's thread has set, if that was no answer.
                yield answer.result()
            finally:
                answer.cancel()

    def take(self, slots: int) -> list[Inquiry]:
        """The oldest questions, up to `slots` sequences but at least one question."""
        taken: list[Inquiry] = []
        with self._lock:
            # The first one is taken however large it is, or it would wait for ever.
            while self._waiting and (not taken or _size([*taken, self._waiting[0]]) <= slots):
                question = self._waiting.pop(0)
                # From here on `cancel` does nothing, so the engine's thread may set the answer without looking.
                if question.answer.set_running_or_notify_cancel():
                    taken.append(question)
        return taken

    def versions(self) -> set[str]:
        """Versions that waiting questions name: they must stay loaded."""
        with self._lock:
            return {question.version for question in self._waiting}

    def close(self) -> None:
        """Refuse what waits and what comes: this student is going away."""
        with self._lock:
            self._closed = True
            waiting, self._waiting = self._waiting, []
        for question in waiting:
            if question.answer.set_running_or_notify_cancel():
                question.answer.set_exception(UnavailableError("this student is shutting down; ask again"))

    @contextmanager
    def _entered(
        self, version: str, requests: Sequence[GenerationRequest], pass_on: Callable[[int, Piece], None] | None
    ) -> Iterator[Inquiry]:
        left = threading.Event()
        listeners = [Listener(left, partial(pass_on, i) if pass_on else None, self.alive) for i in range(len(requests))]
        heard = [replace(request, audience=each) for request, each in zip(requests, listeners, strict=True)]
        question = Inquiry(version, tuple(heard), left)
        self._enter(question)
        try:
            yield question
        finally:
            self._leave(question)

    def _enter(self, question: Inquiry) -> None:
        with self._lock:
            # Under the same lock as `close`, so that none slips in behind it and waits for nobody.
            if self._closed or self._unanswered >= self._bound:
                metrics.REQUESTS.labels("refused").inc()
                reason = "it is shutting down" if self._closed else f"{self._bound} requests are being answered"
                raise UnavailableError(f"this student takes no request now: {reason}; try again later")
            self._unanswered += 1
            self._waiting.append(question)

    def _leave(self, question: Inquiry) -> None:
        # `left` ends a sample that runs; `cancel` keeps one that still waits from being started.
        question.left.set()
        question.answer.cancel()
        with self._lock:
            self._unanswered -= 1
            if question in self._waiting:
                self._waiting.remove(question)


async def _within(awaitable: Awaitable[Result], timeout_s: float) -> Result:
    try:
        async with asyncio.timeout(timeout_s):
            return await awaitable
    except TimeoutError as late:
        metrics.REQUESTS.labels("late").inc()
        raise UnavailableError(
            f"the engine did not answer within {timeout_s:g} s; it is busy with other work, try again later"
        ) from late


def _size(questions: Sequence[Inquiry]) -> int:
    return sum(len(question.requests) for question in questions)
