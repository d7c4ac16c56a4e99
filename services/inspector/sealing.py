"""Reading batches that could not be read when their event came, or whose event was missed.

What always holds: an exchange that events cut stays cut only as long as its batch cannot be read.
"""

import threading

import structlog

from services.inspector.looking import look_again
from services.inspector.store.records import StoredExchange
from services.inspector.store.sealed import SealedBatches
from services.inspector.store.store import Store
from shared.errors import StorageError

LOOK_EVERY_S = 30.0

log = structlog.get_logger()


class BatchReader:
    """`run` is its thread. A batch that cannot be read is said once, and tried again."""

    def __init__(self, store: Store, sealed: SealedBatches) -> None:
        self._store = store
        self._sealed = sealed
        self._read: set[tuple[str, int]] = set()
        self._unreadable: set[tuple[str, int]] = set()

    def run(self, stopping: threading.Event) -> None:
        """Raises DamagedStoreError."""
        look_again(self.look, stopping, every_s=LOOK_EVERY_S, kept="sealed batches")

    def look(self) -> None:
        """Raises StorageError if the store cannot be read or written."""
        for student, step, at in self._store.unsealed_steps():
            # Read before: what is unsealed still is not in the batch.
            if (student, step) in self._read:
                continue
            found = self._exchanges(student, step, at)
            if found is not None:
                self._store.put_exchanges(found)
                self._read.add((student, step))

    def _exchanges(self, student: str, step: int, at: float) -> tuple[StoredExchange, ...] | None:
        """None where the batch is not there yet, or cannot be read."""
        try:
            return self._sealed.exchanges_of(student, step, at) if self._sealed.has(student, step) else None
        except StorageError as error:
            if (student, step) not in self._unreadable:
                self._unreadable.add((student, step))
                log.warning("sealed batch not read", error=str(error), student=student, step=step)
            return None
