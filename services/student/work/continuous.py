"""The engine's thread where requests may join while others run: jobs and people side by side, each as it comes.

What always holds is what holds turn by turn (worker.py), and more: nobody waits for another's group to end; work of an
engine that was lost on the way waits for it in hand, and is made again with the same seeds when it is known to be back,
so that one loss takes one of a job's tries.

What an engine with continuous batching works on at once: each piece of work in a thread that waits for it.

What always holds: every piece that was started lands exactly once; the engine's seconds are shared out among what ran
meanwhile, by sequences, so that their sum is the time in which it had work.
"""

import queue
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

import structlog

from services.student import metrics
from services.student.engines.port import (
    Engine,
    EngineAwayError,
    Generation,
    GenerationCancelledError,
    GenerationRequest,
    UnknownVersionError,
)
from services.student.http.people import Inquiry
from services.student.weights.loader import VersionRefusedError
from services.student.work.generation import Failure, describe, generate_each
from services.student.work.jobs import HeldJob
from services.student.work.worker import NOTHING_NEW, EngineWorker, ReadyJob
from shared.clock import Clock
from shared.errors import UnavailableError
from shared.obs.faults import fault_point

SPARE_THREADS = 64
"""Besides one for each slot: people come on top of the jobs that fill the slots."""

Work = TypeVar("Work")


@dataclass(eq=False)
class Flight(Generic[Work]):
    """result: None while it flies, and where it was cancelled. seconds: its share of the engine's time."""

    work: Work
    sequences: int
    cancelled: threading.Event
    result: list[Generation] | Failure | None = None
    seconds: float = 0.0


class Flights(Generic[Work]):
    """Used by one thread."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock
        self._pool = ThreadPoolExecutor(engine.slots + SPARE_THREADS, thread_name_prefix="flight")
        self._flying: list[Flight[Work]] = []
        self._down: queue.SimpleQueue[Flight[Work]] = queue.SimpleQueue()
        self._shared_s = clock.monotonic_s()

    @property
    def works(self) -> list[Work]:
        """What flies."""
        return [flight.work for flight in self._flying]

    def start(self, work: Work, requests: Sequence[GenerationRequest], cancelled: threading.Event) -> None:
        self._share()
        flight = Flight(work, len(requests), cancelled)
        self._flying.append(flight)
        self._pool.submit(self._fly, flight, requests)

    def landed(self, wait_s: float) -> list[Flight[Work]]:
        """What has come down; waits up to `wait_s` for the first."""
        found: list[Flight[Work]] = []
        try:
            found.append(self._down.get(timeout=wait_s))
            while True:
                found.append(self._down.get_nowait())
        except queue.Empty:
            pass
        self._share()
        for flight in found:
            self._flying.remove(flight)
        return found

    def close(self) -> None:
        """Nothing flies any more."""
        self._pool.shutdown(wait=False)

    def _fly(self, flight: Flight[Work], requests: Sequence[GenerationRequest]) -> None:
        try:
            ((flight.result,), _) = generate_each(self._engine, [requests], flight.cancelled)
        except GenerationCancelledError:
            flight.result = None
        finally:
            self._down.put(flight)

    def _share(self) -> None:
        now = self._clock.monotonic_s()
        sequences = sum(flight.sequences for flight in self._flying)
        for flight in self._flying:
            flight.seconds += (now - self._shared_s) * flight.sequences / sequences
        self._shared_s = now


POLL_S = 0.02
"""Longest wait for what is under way, while the bus may have more."""

MAX_TRIES = 5
"""Of a job whose engine was lost under it: by then it is the job."""

log = structlog.get_logger()


class ContinuousWorker(EngineWorker):
    """See `worker.EngineWorker`; the engine's thread never waits for a generation."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self._flights: Flights[ReadyJob | Inquiry] = Flights(self._engine, self._clock)
        self._losses: WeakKeyDictionary[HeldJob, int] = WeakKeyDictionary()

    def _answer_people(self) -> bool:
        for question in self._interactive.take(self._engine.slots):
            if question.version in self._engine.versions():
                self._flights.start(question, question.requests, self._running.begin(()))
            else:
                question.answer.set_exception(self._not_there(question.version))
        people = [work for work in self._flights.works if isinstance(work, Inquiry)]
        metrics.ANSWERING.set(sum(len(question.requests) for question in people))
        return bool(self._flights.works)

    def _not_there(self, version: str) -> Exception:
        if self._board.engine_problem is not None:
            return UnavailableError(f"the engine is being brought back ({self._board.engine_problem}); try again later")
        return UnknownVersionError(f"{version} was unloaded meanwhile; ask /v1/models what is there")

    def _in_use(self) -> set[str]:
        asked = {work.version for work in self._flights.works if isinstance(work, Inquiry)}
        return super()._in_use() | asked

    def _run_next_group(self) -> None:
        start = self._engine.health().state not in NOTHING_NEW
        for held in self.intake.waiting(self._jobs_under_way()):
            if start:
                self._start(held)
        self._land(POLL_S if self._flights.works else 0.0)

    def _jobs_under_way(self) -> list[HeldJob]:
        return [work[0] for work in self._flights.works if not isinstance(work, Inquiry)]

    def _start(self, held: HeldJob) -> None:
        try:
            self._versions.ensure(held.job.version)
        except VersionRefusedError as error:
            self.intake.refuse(held, describe(error))
            return
        for ready in self._ready([held]):
            self._announce([ready])
            metrics.BATCH_SEQUENCES.observe(len(ready[2]))
            self._flights.start(ready, ready[2], self._running.begin([held.lost]))

    def _land(self, wait_s: float) -> None:
        for flight in self._flights.landed(wait_s):
            self._running.end(flight.cancelled)
            if isinstance(flight.work, Inquiry):
                cancelled = Failure(UnavailableError("this student is shutting down; ask again"))
                self._deliver(flight.work, cancelled if flight.result is None else flight.result)
            else:
                self._finish(flight.work, flight)

    def _finish(self, ready: ReadyJob, flight: Flight[ReadyJob | Inquiry]) -> None:
        held, prompts, _ = ready
        result = flight.result
        if result is None:
            log.warning("generation cancelled", jobs=[held.job.id])
        elif isinstance(result, Failure):
            self._failed(held, result)
        else:
            fault_point("student.generated")
            metrics.BATCH_SECONDS.observe(flight.seconds)
            self.intake.complete(held, prompts, result, flight.seconds)

    def _failed(self, held: HeldJob, failure: Failure) -> None:
        """A lost engine is no fault of the job, unless it is lost each time."""
        self._losses[held] = self._losses.get(held, 0) + 1
        if isinstance(failure.cause, EngineAwayError) and self._losses[held] < MAX_TRIES:
            log.warning("engine lost under a job; it waits", job=held.job.id, error=failure.text)
            return
        self.intake.fail(held, failure.text)

    def _drain(self) -> None:
        """What is under way may end; the watch cancels what does not in time."""
        self._board.draining = True
        self._interactive.close()
        while self._flights.works:
            self._land(POLL_S)
        self._flights.close()
        super()._drain()
