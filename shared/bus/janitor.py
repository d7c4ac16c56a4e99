"""Keeps a run's streams and payloads small; whoever owns the run calls it now and then.

What always holds: it removes nothing that is waiting or in somebody's hands, and no consumer (deleting one would
delete its pending entries with it).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from shared.bus.port import Bus


@dataclass(frozen=True)
class Swept:
    """entries: acknowledged entries trimmed. payloads: payload hashes dropped."""

    entries: int
    payloads: int


class Janitor:
    """queues: (queue, group) pairs of the run, all of them created before."""

    def __init__(self, bus: Bus, queues: Sequence[tuple[str, str]]) -> None:
        self._bus = bus
        self._queues = tuple(queues)

    def sweep(self, finished: Iterable[str] = ()) -> Swept:
        """Trim every queue and drop the payload hashes that nobody needs any more. Raises UnavailableError."""
        keys = sorted(set(finished))
        for key in keys:
            self._bus.drop_payloads(key)
        return Swept(sum(self._bus.trim(queue, group) for queue, group in self._queues), len(keys))
