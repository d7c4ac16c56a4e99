"""The groups that run now, and the reasons to cancel one: every lease lost, or the time to drain is over.

What always holds: a group is cancelled only when nobody wants any of its results, or when the process must end.
"""

import threading
from collections.abc import Sequence

from shared.clock import Clock

WATCH_S = 0.1
DRAIN_S = 12.0
"""How long a running group may go on after SIGTERM; below the grace that the process gets."""


class Running:
    """`begin` and `end` by the engine's thread, `watch` by a thread of its own."""

    def __init__(self, clock: Clock, *, drain_s: float = DRAIN_S) -> None:
        self._clock = clock
        self._drain_s = drain_s
        self._lock = threading.Lock()
        self._groups: dict[threading.Event, Sequence[threading.Event]] = {}

    def begin(self, leases: Sequence[threading.Event]) -> threading.Event:
        """The event to hand to the engine; `leases` are set when the job is not ours any more."""
        cancelled = threading.Event()
        with self._lock:
            self._groups[cancelled] = leases
        return cancelled

    def end(self, cancelled: threading.Event) -> None:
        """Of the group that `begin` gave this event."""
        with self._lock:
            del self._groups[cancelled]

    def watch(self, stopping: threading.Event, ended: threading.Event) -> None:
        """Cancel when there is reason to, until the engine's thread has `ended`."""
        drain_until_s: float | None = None
        while not ended.wait(WATCH_S):
            if stopping.is_set() and drain_until_s is None:
                drain_until_s = self._clock.monotonic_s() + self._drain_s
            overdue = drain_until_s is not None and self._clock.monotonic_s() >= drain_until_s
            self.check(overdue)

    def check(self, overdue: bool) -> None:
        with self._lock:
            for cancelled, leases in self._groups.items():
                if overdue or (leases and all(lost.is_set() for lost in leases)):
                    cancelled.set()
