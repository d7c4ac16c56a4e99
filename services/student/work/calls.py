"""The calls of `Engine.generate` that are under way, what each of them answers, and the reasons to cancel one.

What always holds: every call that was started ends exactly once; a call is cancelled only when nobody wants any of its
results, or when the process must end; the engine's seconds are shared out by sequences among the calls that are under
way together, so that their sum is the time in which the engine had work.
"""

import queue
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from services.student import metrics
from services.student.engines.port import Engine, Generation, GenerationCancelledError, GenerationRequest
from services.student.http.interactive import Inquiry
from services.student.work.generation import Failure, generate_each
from services.student.work.jobs import HeldJob
from shared.clock import Clock
from shared.contracts.jobs import JobInput

SPARE_THREADS = 64
"""Besides one for each slot: people come on top of the jobs that fill the slots."""

WATCH_S = 0.1
DRAIN_S = 12.0
"""How long a call may go on after SIGTERM; below the grace that the process gets."""


@dataclass(frozen=True, eq=False)
class ReadyJob:
    """A job with its input and the engine's requests for it."""

    held: HeldJob
    prompts: JobInput
    requests: Sequence[GenerationRequest]


Work = ReadyJob | Inquiry


@dataclass(eq=False)
class EngineCall:
    """One call of the engine. results: one for each work; None until it ends, and for ever if it was cancelled.
    seconds: its share of the engine's time.
    """

    works: Sequence[Work]
    cancelled: threading.Event
    results: list[list[Generation] | Failure] | None = None
    seconds: float = 0.0

    @property
    def sequences(self) -> int:
        return sum(len(work.requests) for work in self.works)

    @property
    def inquiries(self) -> list[Inquiry]:
        return [work for work in self.works if isinstance(work, Inquiry)]

    @property
    def jobs(self) -> list[HeldJob]:
        return [work.held for work in self.works if isinstance(work, ReadyJob)]

    @property
    def people(self) -> int:
        """Sequences that people wait for."""
        return sum(len(question.requests) for question in self.inquiries)


class Running:
    """The calls that may be cancelled: `begin` and `end` by the engine's thread, `watch` by a thread of its own."""

    def __init__(self, clock: Clock, *, drain_s: float = DRAIN_S) -> None:
        self._clock = clock
        self._drain_s = drain_s
        self._lock = threading.Lock()
        self._leases: dict[threading.Event, Sequence[threading.Event]] = {}

    def begin(self, leases: Sequence[threading.Event]) -> threading.Event:
        """The event to hand to the engine; `leases` are set when the job is not ours any more."""
        cancelled = threading.Event()
        with self._lock:
            self._leases[cancelled] = leases
        return cancelled

    def end(self, cancelled: threading.Event) -> None:
        """Of the call that `begin` gave this event."""
        with self._lock:
            del self._leases[cancelled]

    def watch(self, stopping: threading.Event, ended: threading.Event) -> None:
        """Cancel when there is reason to, until the engine's thread has `ended`."""
        drain_until_s: float | None = None
        while not ended.wait(WATCH_S):
            if stopping.is_set() and drain_until_s is None:
                drain_until_s = self._clock.monotonic_s() + self._drain_s
            overdue = drain_until_s is not None and self._clock.monotonic_s() >= drain_until_s
            self.check(overdue)

    def check(self, overdue: bool) -> None:
        """Cancel every call if it is overdue, else those of which no lease is left."""
        with self._lock:
            for cancelled, leases in self._leases.items():
                # A person's call has no lease, and all() of nothing is true: only an overdue end cancels it.
                if overdue or (leases and all(lost.is_set() for lost in leases)):
                    cancelled.set()


class EngineCalls:
    """Used by the engine's thread alone.

    A call of a continuous engine is waited for by a thread of its own. A static engine is called inside `start`:
    nothing could join its batch meanwhile, and a job taken for later would be kept from a replica that is free.
    """

    def __init__(self, engine: Engine, running: Running, clock: Clock) -> None:
        self._engine = engine
        self._running = running
        self._clock = clock
        self._pool = ThreadPoolExecutor(engine.slots + SPARE_THREADS, thread_name_prefix="engine-call")
        self._open: list[EngineCall] = []
        self._ended: queue.SimpleQueue[EngineCall] = queue.SimpleQueue()
        self._shared_s = clock.monotonic_s()

    @property
    def works(self) -> list[Work]:
        """What is under way."""
        return [work for call in self._open for work in call.works]

    @property
    def inquiries(self) -> list[Inquiry]:
        return [question for call in self._open for question in call.inquiries]

    @property
    def jobs(self) -> list[HeldJob]:
        return [held for call in self._open for held in call.jobs]

    def start(self, works: Sequence[Work]) -> None:
        """Begin one call that answers all of `works`, which name one version."""
        self._share()
        leases = [work.held.lost for work in works if isinstance(work, ReadyJob)]
        call = EngineCall(works, self._running.begin(leases))
        self._open.append(call)
        metrics.ANSWERING.inc(call.people)
        if self._engine.continuous:
            self._pool.submit(self._run, call)
        else:
            self._run(call)

    def ended(self, wait_s: float) -> list[EngineCall]:
        """The calls that came to an end; waits up to `wait_s` for the first."""
        found: list[EngineCall] = []
        try:
            found.append(self._ended.get(timeout=wait_s))
            while True:
                found.append(self._ended.get_nowait())
        except queue.Empty:
            pass
        # Shared out before they are taken off the list, or their last stretch would be given to the others.
        self._share()
        for call in found:
            self._open.remove(call)
            self._running.end(call.cancelled)
            metrics.ANSWERING.dec(call.people)
        return found

    def close(self) -> None:
        """No call is under way any more."""
        self._pool.shutdown(wait=False)

    def _run(self, call: EngineCall) -> None:
        try:
            batches = [work.requests for work in call.works]
            call.results, again = generate_each(self._engine, batches, call.cancelled)
            if again:
                metrics.BATCH_RETRIES.inc()
        except GenerationCancelledError:
            call.results = None
        finally:
            self._ended.put(call)

    def _share(self) -> None:
        now_s = self._clock.monotonic_s()
        sequences = sum(call.sequences for call in self._open)
        for call in self._open:
            call.seconds += (now_s - self._shared_s) * call.sequences / sequences
        self._shared_s = now_s
