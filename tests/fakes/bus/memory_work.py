"""Work queues, dead letters and payloads of the bus in memory.

What always holds: everything that a call writes is prepared (and refused, if it is) before its first write.
Leases run on the server's clock; waiting (`block_s`) takes real time, because only a write wakes a waiter.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from shared.bus.payloads import check, no_payload
from shared.bus.port import WAIT_SLICE_S, DeadLetter, Delivery, HeldDeliveries, no_queue
from shared.clock import Clock
from shared.contracts.envelope import Message, unwrap, wrap
from shared.contracts.jobs import PayloadRef
from shared.errors import MalformedMessageError, UnavailableError
from tests.fakes.bus.memory_queue import Entry, MemoryQueue
from tests.fakes.bus.memory_server import MemoryServer


@dataclass(frozen=True)
class Prepared:
    """Envelopes by queue and checked payloads, ready to be written."""

    messages: Sequence[tuple[str, bytes]]
    payloads: Sequence[tuple[PayloadRef, bytes]]


def prepare(
    messages: Iterable[tuple[str, Message] | None], payloads: Iterable[tuple[PayloadRef, bytes] | None]
) -> Prepared:
    """Raises MalformedMessageError or StorageError if one of them could not be read again."""
    kept = [payload for payload in payloads if payload is not None]
    for ref, data in kept:
        check(ref, data)
    return Prepared([(m[0], wrap(m[1])) for m in messages if m is not None], kept)


class MemoryWork:
    """The half of the bus that moves work; MemoryBus adds state, leases and the log."""

    def __init__(
        self,
        server: MemoryServer | None = None,
        *,
        clock: Clock | None = None,
        lease_s: float = 60,
        max_attempts: int = 3,
        event_cap: int = 100_000,
    ) -> None:
        self.server = server or MemoryServer(clock)
        self.lease_s = lease_s
        self.max_attempts = max_attempts
        self.event_cap = event_cap
        self._held = HeldDeliveries()

    @contextmanager
    def _open(self, operation: str, *, wakes: bool = False) -> Iterator[MemoryServer]:
        with self.server.changed:
            if self.server.down:
                raise UnavailableError(f"memory bus: no answer to {operation}; the server is down")
            yield self.server
            if wakes:
                self.server.changed.notify_all()

    def _existing(self, server: MemoryServer, queue: str) -> MemoryQueue:
        found = server.queues.get(queue)
        if found is None or not found.groups:
            raise no_queue(queue)
        return found

    def ping(self) -> None:
        with self._open("ping"):
            pass

    # Work queues -----------------------------------------------------------------------------------------
    def create_queue(self, queue: str, group: str) -> None:
        with self._open("create_queue") as server:
            server.queue(queue).group(group)

    def publish(self, queue: str, message: Message) -> str:
        data = wrap(message)
        with self._open("publish", wakes=True) as server:
            return self._existing(server, queue).add(data)

    def take(self, queues: Sequence[tuple[str, str]], consumer: str, *, limit: int, block_s: float) -> list[Delivery]:
        deadline = time.monotonic() + block_s
        while True:
            with self._open("take") as server:
                found = self._take_now(server, queues, consumer, limit)
                left_s = deadline - time.monotonic()
                if found or left_s <= 0:
                    return found
                server.changed.wait(min(left_s, WAIT_SLICE_S, self.lease_s / 4))

    def _take_now(
        self, server: MemoryServer, queues: Sequence[tuple[str, str]], consumer: str, limit: int
    ) -> list[Delivery]:
        taken: list[Delivery] = []
        for queue, group in queues:
            found = server.queue(queue)
            held = self._held.ids(queue, group, consumer)
            now_s = server.clock.monotonic_s()
            entries = found.take(group, consumer, held, limit - len(taken), self.lease_s, now_s)
            taken += self._decode(server, (queue, group, consumer), entries)
        self._held.add(taken)
        return taken

    def _decode(self, server: MemoryServer, place: tuple[str, str, str], entries: Sequence[Entry]) -> list[Delivery]:
        decoded = []
        queue, group, consumer = place
        for entry in entries:
            try:
                message = unwrap(entry.data)
            except MalformedMessageError as error:
                raw = server.queues[queue].remove(group, entry.entry_id)
                self._bury(server, queue, str(error), entry.attempt, raw)
                continue
            where = (queue, group, consumer, entry.entry_id)
            decoded.append(Delivery(*where, message, entry.attempt, entry.refused_by))
        return decoded

    def renew(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        with self._open("renew") as server:
            now_s = server.clock.monotonic_s()
            ours = [d for d in deliveries if self._find(server, d).renew(d, now_s)]
        for delivery in deliveries:
            if delivery not in ours:
                self._held.drop(delivery)
        return ours

    def complete(
        self,
        delivery: Delivery,
        *,
        announce: tuple[str, Message] | None = None,
        payload: tuple[PayloadRef, bytes] | None = None,
    ) -> bool:
        prepared = prepare([announce], [payload])
        with self._open("complete", wakes=True) as server:
            return self._end(server, delivery, prepared) is not None

    def release(self, delivery: Delivery) -> None:
        with self._open("release", wakes=True) as server:
            queue = self._find(server, delivery)
            if queue.owned(delivery):
                queue.release(delivery)
            self._held.drop(delivery)

    def hand_over(self, delivery: Delivery, consumer: str) -> None:
        with self._open("hand_over", wakes=True) as server:
            queue = self._find(server, delivery)
            if queue.owned(delivery):
                queue.hand_over(delivery, consumer, server.clock.monotonic_s())
            self._held.drop(delivery)

    def dead_letter(self, delivery: Delivery, reason: str, *, announce: tuple[str, Message] | None = None) -> bool:
        prepared = prepare([announce], [])
        with self._open("dead_letter", wakes=True) as server:
            raw = self._end(server, delivery, prepared)
            if raw is not None:
                self._bury(server, delivery.queue, reason, delivery.attempt, raw)
            return raw is not None

    def _end(self, server: MemoryServer, delivery: Delivery, prepared: Prepared) -> bytes | None:
        """Acknowledge and delete, then write `prepared`; None and nothing written if it is not ours."""
        queue = self._find(server, delivery)
        if queue.owned(delivery):
            targets = [self._existing(server, name) for name, _ in prepared.messages]
            raw = queue.remove(delivery.group, delivery.entry_id)
            self._write(server, targets, prepared)
        else:
            raw = None
        self._held.drop(delivery)
        return raw

    def _write(self, server: MemoryServer, targets: Sequence[MemoryQueue], prepared: Prepared) -> None:
        for ref, data in prepared.payloads:
            server.payloads.setdefault(ref.key, {}).setdefault(ref.field, data)
        for target, (_, data) in zip(targets, prepared.messages, strict=True):
            target.add(data)

    def _find(self, server: MemoryServer, delivery: Delivery) -> MemoryQueue:
        return server.queue(delivery.queue)

    def _bury(self, server: MemoryServer, queue: str, reason: str, attempt: int, raw: bytes) -> None:
        entry_id = f"{next(server.numbers)}-0"
        server.dead[entry_id] = DeadLetter(entry_id, queue, reason, attempt, raw)

    def dead_letters(self, count: int = 100) -> list[DeadLetter]:
        with self._open("dead_letters") as server:
            return list(server.dead.values())[:count]

    def retry_dead_letter(self, entry_id: str) -> bool:
        with self._open("retry_dead_letter", wakes=True) as server:
            letter = server.dead.get(entry_id)
            if letter is None:
                return False
            self._existing(server, letter.queue).add(letter.raw)
            del server.dead[entry_id]
            return True

    def drop_dead_letter(self, entry_id: str) -> bool:
        with self._open("drop_dead_letter") as server:
            return server.dead.pop(entry_id, None) is not None

    def queue_depth(self, queue: str, group: str) -> tuple[int, int]:
        with self._open("queue_depth") as server:
            return server.queue(queue).depth(group)

    def trim(self, queue: str, group: str) -> int:
        with self._open("trim") as server:
            return server.queue(queue).trim(group)

    def discard(self, queue: str, group: str, unwanted: Callable[[Message], bool], fence: int) -> int:
        def matches(data: bytes) -> bool:
            try:
                return unwanted(unwrap(data))
            except MalformedMessageError:
                return False

        with self._open("discard") as server:
            server.require_fence(fence)
            entries = server.queue(queue).entries
            found = [number for number, data in entries.items() if matches(data)]
            for number in found:
                server.queue(queue).remove(group, f"{number}-0")
            return len(found)

    # Payloads --------------------------------------------------------------------------------------------
    def get_payload(self, ref: PayloadRef) -> bytes:
        with self._open("get_payload") as server:
            data = server.payloads.get(ref.key, {}).get(ref.field)
        if data is None:
            raise no_payload(ref)
        check(ref, data)
        return data

    def drop_payloads(self, key: str, fence: int) -> None:
        with self._open("drop_payloads") as server:
            server.require_fence(fence)
            server.payloads.pop(key, None)

    def payload_keys(self) -> list[str]:
        with self._open("payload_keys") as server:
            return sorted(server.payloads)
