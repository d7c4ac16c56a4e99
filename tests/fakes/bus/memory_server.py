"""What a Redis server would hold for one run, in this process's memory.

What always holds: everything is read and written under `changed`, and waiters are woken after every write.
Several MemoryBus objects on one server are what several processes on one Redis are.
"""

import copy
import itertools
import threading
from dataclasses import dataclass

from shared.bus.keys import LEADER
from shared.bus.port import RELEASED, DeadLetter, stale_fence
from shared.clock import Clock, SystemClock
from shared.contracts.heartbeats import Heartbeat
from tests.fakes.bus.memory_queue import MemoryQueue


@dataclass
class MemoryLease:
    """until_s: when it runs out, on the server's clock."""

    holder: str
    token: int
    until_s: float


class MemoryServer:
    """`down = True` makes every call raise UnavailableError, `flush()` is a restart without data."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock: Clock = clock or SystemClock()
        self.changed = threading.Condition(threading.RLock())
        self.down = False
        self.numbers = itertools.count(1)
        self.flush()

    def flush(self) -> None:
        """Forget everything, as FLUSHALL does."""
        with self.changed:
            self.queues: dict[str, MemoryQueue] = {}
            self.dead: dict[str, DeadLetter] = {}
            self.payloads: dict[str, dict[str, bytes]] = {}
            self.state: str | None = None
            self.revision = 0
            self.serve: dict[str, str] = {}
            self.leases: dict[str, MemoryLease] = {}
            self.tokens: dict[str, int] = {}
            self.lines: dict[str, dict[str, float]] = {}
            self.heads: dict[str, int] = {}
            self.events: dict[int, str] = {}
            self.events_trimmed = False
            self.beats: dict[tuple[str, str], tuple[float, Heartbeat]] = {}
            self.changed.notify_all()

    def saved(self) -> dict[str, object]:
        """What a file of Redis would hold now, for `restore`."""
        with self.changed:
            held = {name: value for name, value in vars(self).items() if name not in ("clock", "changed", "down")}
            # Numbers go on, as Redis' do with its clock: no entry gets one that was handed out and is lost.
            return copy.deepcopy(held, {id(self.numbers): self.numbers})

    def restore(self, saved: dict[str, object]) -> None:
        """A restart without what came after `saved`, as after a power cut."""
        with self.changed:
            vars(self).update(copy.deepcopy(saved, {id(self.numbers): self.numbers}))
            self.changed.notify_all()

    def left_s(self, lease_s: float) -> float:
        """Until the first of what is held runs out: of named leases, and of messages in hand, each for `lease_s`."""
        with self.changed:
            now_s = self.clock.monotonic_s()
            groups = [group for queue in self.queues.values() for group in queue.groups.values()]
            held = [entry for group in groups for entry in group.pending.values() if entry.consumer != RELEASED]
            ends = [entry.renewed_s + lease_s for entry in held]
            ends += [lease.until_s for lease in self.leases.values() if lease.until_s > now_s]
            return min(ends, default=now_s + lease_s) - now_s

    def require_fence(self, expected: int) -> None:
        """Raises FencedError if another broker holds the fence."""
        if self.tokens.get(LEADER) != expected:
            raise stale_fence(LEADER, expected, self.tokens.get(LEADER))

    def queue(self, name: str) -> MemoryQueue:
        """The queue, created without a group if it is not there; call it under `changed`."""
        return self.queues.setdefault(name, MemoryQueue(self.numbers))
