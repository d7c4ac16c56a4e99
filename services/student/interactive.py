"""Requests of people, on their way from HTTP threads to the engine's thread: bounded, with deadlines.

What always holds: a request is bound to one exact version; it is answered, refused or late exactly once; at most
`bound` are unanswered, the running ones included, so that HTTP threads remain for the probes.
"""

import threading
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field

from services.student import metrics
from services.student.engines.port import Generation, GenerationRequest
from shared.clock import Clock
from shared.errors import UnavailableError


@dataclass(frozen=True, eq=False)
class Question:
    """Sequences for one HTTP request, all of the same version. deadline_s: on the queue's clock."""

    version: str
    requests: tuple[GenerationRequest, ...]
    deadline_s: float
    answer: "Future[list[Generation]]" = field(default_factory=Future)


class InteractiveQueue:
    """`ask` is called by HTTP threads, everything else by the engine's thread."""

    def __init__(self, *, bound: int, clock: Clock) -> None:
        self._bound = bound
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: list[Question] = []
        self._unanswered = 0
        self._closed = False

    def ask(self, version: str, requests: Sequence[GenerationRequest], *, timeout_s: float) -> list[Generation]:
        """One generation a request. Raises UnavailableError if too many wait, or nothing came within `timeout_s`."""
        question = Question(version, tuple(requests), self._clock.monotonic_s() + timeout_s)
        self._enter(question)
        try:
            return question.answer.result(timeout=timeout_s)
        except (TimeoutError, CancelledError) as late:
            metrics.REQUESTS.labels("late").inc()
            raise UnavailableError(
                f"the engine did not answer within {timeout_s:g} s; it is busy with other work, try again later"
            ) from late
        finally:
            self._leave(question)

    def take(self, slots: int) -> list[Question]:
        """The oldest questions, up to `slots` sequences but at least one question; late ones are dropped."""
        taken: list[Question] = []
        with self._lock:
            while self._waiting and (not taken or _size([*taken, self._waiting[0]]) <= slots):
                question = self._waiting.pop(0)
                if self._clock.monotonic_s() < question.deadline_s and question.answer.set_running_or_notify_cancel():
                    taken.append(question)
                else:
                    question.answer.cancel()
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

    def _enter(self, question: Question) -> None:
        with self._lock:
            if self._closed or self._unanswered >= self._bound:
                metrics.REQUESTS.labels("refused").inc()
                reason = "it is shutting down" if self._closed else f"{self._bound} requests are being answered"
                raise UnavailableError(f"this student takes no request now: {reason}; try again later")
            self._unanswered += 1
            self._waiting.append(question)

    def _leave(self, question: Question) -> None:
        question.answer.cancel()
        with self._lock:
            self._unanswered -= 1
            if question in self._waiting:
                self._waiting.remove(question)


def _size(questions: Sequence[Question]) -> int:
    return sum(len(question.requests) for question in questions)
