"""A work queue in memory: entries, one group's pending list and attempts, with the rules of a Redis stream.

What always holds: an entry is waiting, pending with one consumer, or gone; an entry that is taken counts one
attempt; whoever does not hold the current attempt changes nothing.
"""

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from shared.bus.port import RELEASED, Delivery


@dataclass
class Pending:
    """In whose hands an entry is, and when (seconds) its lease was last renewed."""

    consumer: str
    renewed_s: float


@dataclass
class Group:
    """last: number of the newest entry handed out."""

    last: int = 0
    pending: dict[int, Pending] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """An entry that was just handed out."""

    entry_id: str
    data: bytes
    attempt: int
    refused_by: tuple[str, ...]


class MemoryQueue:
    """Entries get the server's next number; times are seconds of its clock."""

    def __init__(self, numbers: Iterator[int]) -> None:
        self.entries: dict[int, bytes] = {}
        self.groups: dict[str, Group] = {}
        self.attempts: dict[int, int] = {}
        self.refused_by: dict[int, tuple[str, ...]] = {}
        self._numbers = numbers

    def group(self, name: str) -> Group:
        """The group, created at the first entry if it is not there."""
        return self.groups.setdefault(name, Group())

    def add(self, data: bytes) -> str:
        number = next(self._numbers)
        self.entries[number] = data
        return f"{number}-0"

    def take(
        self, group: str, consumer: str, held: Collection[str], limit: int, lease_s: float, now_s: float
    ) -> list[Entry]:
        """Own entries that are not held, then expired ones, then new ones; held ones that expired are renewed."""
        state = self.group(group)
        pending = sorted(state.pending.items())
        own = [n for n, p in pending if p.consumer == consumer]
        in_hand = [n for n in own if f"{n}-0" in held]
        expired = [n for n, p in pending if now_s - p.renewed_s >= lease_s]
        new = [n for n in self.entries if n > state.last]
        chosen = [n for n in dict.fromkeys(own + expired + new) if n not in in_hand][:limit]
        if len(chosen) < limit:
            for number in set(expired).intersection(in_hand):
                state.pending[number].renewed_s = now_s
        return [self._hand_out(state, number, consumer, now_s) for number in chosen]

    def _hand_out(self, state: Group, number: int, consumer: str, now_s: float) -> Entry:
        state.last = max(state.last, number)
        state.pending[number] = Pending(consumer, now_s)
        self.attempts[number] = self.attempts.get(number, 0) + 1
        refused_by = self.refused_by.get(number, ())
        return Entry(f"{number}-0", self.entries[number], self.attempts[number], refused_by)

    def owned(self, delivery: Delivery) -> bool:
        """Whether `delivery` is the current attempt and still with its consumer."""
        number = _number(delivery.entry_id)
        pending = self.groups.get(delivery.group, Group()).pending.get(number)
        same = pending is not None and pending.consumer == delivery.consumer
        return same and self.attempts.get(number) == delivery.attempt

    def renew(self, delivery: Delivery, now_s: float) -> bool:
        if not self.owned(delivery):
            return False
        self.groups[delivery.group].pending[_number(delivery.entry_id)].renewed_s = now_s
        return True

    def release(self, delivery: Delivery) -> None:
        """Give an owned delivery back; the attempt does not count."""
        number = _number(delivery.entry_id)
        self.groups[delivery.group].pending[number] = Pending(RELEASED, -math.inf)
        self.attempts[number] -= 1

    def hand_over(self, delivery: Delivery, consumer: str, now_s: float) -> None:
        """Give an owned delivery to `consumer`; the attempt does not count."""
        number = _number(delivery.entry_id)
        self.groups[delivery.group].pending[number] = Pending(consumer, now_s)
        self.refused_by[number] = tuple(dict.fromkeys((*self.refused_by.get(number, ()), delivery.consumer)))
        self.attempts[number] -= 1

    def remove(self, group: str, entry_id: str) -> bytes:
        """Acknowledge and delete an entry; returns its raw bytes."""
        number = _number(entry_id)
        self.group(group).pending.pop(number, None)
        self.attempts.pop(number, None)
        self.refused_by.pop(number, None)
        return self.entries.pop(number)

    def depth(self, group: str) -> tuple[int, int]:
        pending = len(self.groups[group].pending) if group in self.groups else 0
        return max(0, len(self.entries) - pending), pending

    def trim(self, group: str) -> int:
        """Drop what was handed out and acknowledged, but not deleted."""
        state = self.groups.get(group, Group())
        done = [n for n in self.entries if n <= state.last and n < min(state.pending, default=math.inf)]
        for number in done:
            del self.entries[number]
        return len(done)


def _number(entry_id: str) -> int:
    return int(entry_id.partition("-")[0])
