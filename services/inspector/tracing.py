"""Keeping the divergence of traced rollouts in the store, so that exchanges can be filtered by it.

The trainer writes a step's traces beside its batch; nobody tells when. So this looks whenever the log has grown, and at
the start, which also fills a store of before.
"""

import threading

import structlog

from services.inspector.looking import look_again
from services.inspector.store.store import Store
from services.inspector.store.traces import Traces
from shared.errors import StorageError

LOOK_EVERY_S = 5.0

log = structlog.get_logger()


class TraceReader:
    """`run` is its thread. A file that cannot be read is said once, and left out."""

    def __init__(self, store: Store, traces: Traces) -> None:
        self._store = store
        self._traces = traces
        self._unreadable: set[tuple[str, int]] = set()
        self._seen = -1

    def run(self, stopping: threading.Event) -> None:
        """Raises DamagedStoreError."""
        look_again(self.look, stopping, every_s=LOOK_EVERY_S, kept="divergences")

    def look(self) -> None:
        """Raises StorageError if the store cannot be read or written."""
        head = self._store.head
        if head == self._seen:
            return
        for student, step in self._store.steps_without_divergence():
            if nats := self._divergences(student, step):
                self._store.put_divergences(student, step, nats)
        self._seen = head

    def _divergences(self, student: str, step: int) -> dict[tuple[str, int], float]:
        if (student, step) in self._unreadable:
            return {}
        try:
            return self._traces.divergences(student, step)
        except StorageError as error:
            self._unreadable.add((student, step))
            log.warning("traces not read", error=str(error), student=student, step=step)
            return {}
