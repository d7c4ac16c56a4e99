"""What both buses know of deliveries: which ones a process has in its hands, and how dead letters read.

What always holds: a message that this process took and has not ended is not taken by it again before its lease
ran out; after a restart nothing is in its hands, so its own pending entries come first.
"""

import threading
from collections import defaultdict
from collections.abc import Sequence

from shared.bus.port import Delivery
from shared.errors import FencedError, UnavailableError

RELEASED = "-released"
"""Consumer that owns what was given back: nobody's, so that whoever asks next may take it at once."""

WAIT_SLICE_S = 0.5
"""A blocked `take` looks for expired leases this often: they wake nobody, and F2 wants them within a second."""


class HeldDeliveries:
    """Entry ids in this process's hands, by queue, group and consumer. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ids: defaultdict[tuple[str, str, str], set[str]] = defaultdict(set)

    def add(self, deliveries: Sequence[Delivery]) -> None:
        with self._lock:
            for delivery in deliveries:
                self._ids[_place(delivery)].add(delivery.entry_id)

    def drop(self, delivery: Delivery) -> None:
        with self._lock:
            self._ids[_place(delivery)].discard(delivery.entry_id)

    def ids(self, queue: str, group: str, consumer: str) -> list[str]:
        with self._lock:
            return sorted(self._ids[queue, group, consumer])


def _place(delivery: Delivery) -> tuple[str, str, str]:
    return delivery.queue, delivery.group, delivery.consumer


def no_queue(queue: str) -> UnavailableError:
    """For a queue that nobody created: what is published there would be read by no group."""
    return UnavailableError(
        f"queue {queue!r} does not exist: expected its reader to have called create_queue before anything is "
        f"published; start it, or wait until it is up"
    )


def stale_fence(name: str, expected: int, found: int | None) -> FencedError:
    """For a write under a fencing token that is not the current one."""
    current = "none: the server lost its data" if found is None else str(found)
    return FencedError(
        f"token {expected} of lease {name!r} is not the current one ({current}): another process took over; "
        f"stop writing and exit"
    )


def stale_revision(revision: int, found: int) -> FencedError:
    """For a commit that does not follow the stored state."""
    return FencedError(
        f"cannot commit revision {revision}: expected the stored one to be {revision - 1}, found {found}; "
        f"load the state again"
    )


def lost_ack(delivery: Delivery) -> FencedError:
    """For a commit whose event is no longer in the committer's hands."""
    return FencedError(
        f"cannot commit {delivery.message.key!r}: its delivery {delivery.entry_id} on {delivery.queue!r} is not "
        f"{delivery.consumer}'s any more (attempt {delivery.attempt}); renew leases before they run out"
    )
