"""What an engine with continuous batching works on at once: each piece of work in a thread that waits for it.

What always holds: every piece that was started lands exactly once; the engine's seconds are shared out among what ran
meanwhile, by sequences, so that their sum is the time in which it had work.
"""

import queue
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from services.student.engines.port import Engine, Generation, GenerationCancelledError, GenerationRequest
from services.student.work.generation import Failure, generate_each
from shared.clock import Clock

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
