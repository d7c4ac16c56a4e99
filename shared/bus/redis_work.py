"""Work queues, dead letters and payloads on Redis streams and hashes.

What always holds: whatever changes more than one key is one script, and a script checks before it writes.
Only commands of Redis 7.0 are used. A lease is the idle time of a pending entry, measured by the server, so
nobody's clock matters.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from redis.exceptions import ResponseError

from shared.bus.keys import LEADER, PAYLOADS, Keys
from shared.bus.payloads import check, no_payload
from shared.bus.port import RELEASED, WAIT_SLICE_S, DeadLetter, Delivery, HeldDeliveries, no_queue, stale_fence
from shared.bus.redis_entries import (
    LETTER_FIELD,
    Writes,
    dead_letter_of,
    message_of,
    text,
    word_of,
    writes,
    wrong_type,
)
from shared.bus.redis_link import Argument, RedisLink
from shared.contracts.envelope import Message, wrap
from shared.contracts.jobs import PayloadRef
from shared.errors import MalformedMessageError

DEADLINE_S = 10.0

PAGE = 500
"""Entries that are looked through at once, of at most 8 KB each."""

Place = tuple[str, str, str]
"""Queue, group and consumer."""


@dataclass(frozen=True)
class EmptyLook:
    """A look at some queues that found nothing: when it began (monotonic), and by stream the id up to which entries had
    been handed out."""

    at_s: float
    newest: dict[str, bytes]


class RedisWork:
    """The half of the bus that moves work; RedisBus adds state, leases and the log.

    lease_s: how long a message may go without renewal. max_attempts: after so many started handlings the caller
    gives up on a message. deadline_s bounds every call; keep it below the leases, or their loss is noticed late.
    event_cap: about how many events the log keeps.
    """

    def __init__(
        self,
        url: str,
        run: str,
        *,
        lease_s: float = 60,
        max_attempts: int = 3,
        deadline_s: float = DEADLINE_S,
        event_cap: int = 100_000,
    ) -> None:
        self.keys = Keys(run)
        self.link = RedisLink(url, deadline_s=deadline_s)
        self.lease_s = lease_s
        self.max_attempts = max_attempts
        self.event_cap = event_cap
        self._held = HeldDeliveries()
        self._empty: dict[tuple[tuple[tuple[str, str], ...], str], EmptyLook] = {}

    def ping(self) -> None:
        self.link.call("ping", lambda: self.link.client.ping())

    def close(self) -> None:
        self.link.close()

    # Work queues -----------------------------------------------------------------------------------------
    def create_queue(self, queue: str, group: str) -> None:
        def create() -> None:
            try:
                # From the first message on: a group at `$` would never see what was published before it.
                self.link.client.xgroup_create(self.keys.queue(queue), group, id="0", mkstream=True)
            except ResponseError as error:
                # All who use a queue create it when they start; whoever comes second finds it there.
                if not str(error).startswith("BUSYGROUP"):
                    raise

        self.link.call("create_queue", create)

    def publish(self, queue: str, message: Message) -> str:
        answer = self.link.script("publish", [self.keys.queue(queue)], [wrap(message)])
        return str(self._details(answer, (queue,))[0])

    def take(self, queues: Sequence[tuple[str, str]], consumer: str, *, limit: int, block_s: float) -> list[Delivery]:
        deadline, asked = time.monotonic() + block_s, (tuple(queues), consumer)
        while True:
            look = self._empty.get(asked)
            # A look costs four scripts of a student's; whether anything has come since is one cheap command. What a
            # look alone finds wakes nobody: leases that ran out, and what was given back. So it is repeated.
            fresh_s = 0.0 if look is None else look.at_s + min(WAIT_SLICE_S, self.lease_s / 4) - time.monotonic()
            if look is not None and fresh_s > 0:
                grown = self._wait(look.newest, min(deadline - time.monotonic(), fresh_s))
                if not grown and time.monotonic() >= deadline:
                    return []
                if not grown:
                    continue
            taken = self._look(queues, consumer, limit)
            if taken or time.monotonic() >= deadline:
                return taken

    def _look(self, queues: Sequence[tuple[str, str]], consumer: str, limit: int) -> list[Delivery]:
        """What a `take` finds at once; that it was nothing is remembered."""
        asked, at_s = (tuple(queues), consumer), time.monotonic()
        taken: list[Delivery] = []
        newest: dict[str, bytes] = {}
        for queue, group in queues:
            # In order of priority: a queue is asked only for the room that those before it have left.
            if len(taken) < limit:
                taken += self._take_from((queue, group, consumer), limit - len(taken), newest)
        if taken:
            self._empty.pop(asked, None)
        else:
            self._empty[asked] = EmptyLook(at_s, newest)
        # Only now: what another queue's failure keeps from the caller is handed out again.
        self._held.add(taken)
        return taken

    def _take_from(self, place: Place, limit: int, newest: dict[str, bytes]) -> list[Delivery]:
        """Up to `limit` readable messages; fills `newest` with the last id handed out of the stream."""
        queue, group, consumer = place
        stream = self.keys.queue(queue)
        # What is in hand is named, or the script would hand out this consumer's own pending entries once more.
        arguments: list[Argument] = [group, consumer, limit, _ms(self.lease_s), *self._held.ids(*place)]
        last, entries = self.link.script("take", [stream, self.keys.attempts(queue)], arguments)
        newest[stream] = cast(bytes, last)
        return [
            delivery
            for entry_id, attempt, fields, refused_by in cast(list[tuple[bytes, int, list[bytes], bytes]], entries)
            if (delivery := self._decode(place, text(entry_id), attempt, fields, refused_by)) is not None
        ]

    def _decode(
        self, place: Place, entry_id: str, attempt: int, fields: Sequence[bytes], refused_by: bytes
    ) -> Delivery | None:
        """The delivery of an entry; a malformed one goes to the dead letters and gives None."""
        try:
            message = message_of(fields)
            return Delivery(*place, entry_id, message, attempt, refused_by=tuple(text(refused_by).splitlines()))
        except MalformedMessageError as error:
            # Nobody is told of it: without a readable message there is no job that it could be about.
            self._bury(place, entry_id, attempt, str(error), writes(self.keys, []))
            return None

    def _wait(self, newest: dict[str, bytes], wait_s: float) -> bool:
        """Until one of the streams grows past what was handed out, and whether one did; takes nothing."""
        block = _ms(wait_s) if wait_s > 0 else None
        return bool(
            self.link.call("take", lambda: self.link.client.xread(cast(Any, newest), count=1, block=block)),
        )

    def renew(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        if not deliveries:
            return []
        keys = [key for d in deliveries for key in (self.keys.queue(d.queue), self.keys.attempts(d.queue))]
        kept = self.link.script("renew", keys, [part for d in deliveries for part in _identity(d)])
        # Positions, since the ids of entries are unique within one stream only.
        ours = [deliveries[cast(int, position)] for position in kept]
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
        written = writes(self.keys, [announce], [payload])
        answer = self.link.script(
            "complete", [*self._work_keys(delivery), *written.keys], [*_identity(delivery), *written.arguments]
        )
        return self._ended(delivery, answer, written)

    def release(self, delivery: Delivery) -> None:
        self.link.number("release", self._work_keys(delivery), [*_identity(delivery), RELEASED])
        self._empty.clear()
        self._held.drop(delivery)

    def hand_over(self, delivery: Delivery, consumer: str) -> None:
        self.link.number("hand_over", self._work_keys(delivery), [*_identity(delivery), consumer])
        self._empty.clear()
        self._held.drop(delivery)

    def dead_letter(self, delivery: Delivery, reason: str, *, announce: tuple[str, Message] | None = None) -> bool:
        place = (delivery.queue, delivery.group, delivery.consumer)
        written = writes(self.keys, [announce])
        answer = self._bury(place, delivery.entry_id, delivery.attempt, reason, written)
        return self._ended(delivery, answer, written)

    def _bury(self, place: Place, entry_id: str, attempt: int, reason: str, written: Writes) -> list[object]:
        queue, group, consumer = place
        return self.link.script(
            "dead_letter",
            [self.keys.queue(queue), self.keys.attempts(queue), self.keys.dead_letters, *written.keys],
            [group, consumer, entry_id, attempt, queue, reason, *written.arguments],
        )

    def _ended(self, delivery: Delivery, answer: Sequence[object], written: Writes) -> bool:
        # Another consumer took it meanwhile, and its result counts: nothing was written.
        late = word_of(answer)[0] == "late"
        if not late:
            self._details(answer, written.queues)
        self._held.drop(delivery)
        return not late

    def dead_letters(self, count: int = 100) -> list[DeadLetter]:
        entries = self.link.call("dead_letters", lambda: self.link.client.xrange(self.keys.dead_letters, count=count))
        return [dead_letter_of(entry_id, fields) for entry_id, fields in cast(Any, entries)]

    def retry_dead_letter(self, entry_id: str) -> bool:
        found = self.link.call(
            "retry_dead_letter", lambda: self.link.client.xrange(self.keys.dead_letters, entry_id, entry_id)
        )
        for _, fields in cast(list[tuple[bytes, dict[bytes, bytes]]], found):
            queue, mark = text(fields[b"queue"]), LETTER_FIELD.encode()
            own = [p for n, value in fields.items() if n.startswith(mark) for p in (n[len(mark) :], value)]
            keys = [self.keys.dead_letters, self.keys.queue(queue)]
            answer = self.link.script("retry_dead_letter", keys, [entry_id, *own])
            # Late: somebody else retried or dropped it since it was read.
            if word_of(answer)[0] != "late":
                self._details(answer, (queue,))
                return True
        return False

    def drop_dead_letter(self, entry_id: str) -> bool:
        dropped = self.link.call("drop_dead_letter", lambda: self.link.client.xdel(self.keys.dead_letters, entry_id))
        return bool(dropped)

    def queue_depth(self, queue: str, group: str) -> tuple[int, int]:
        def read() -> tuple[int, int]:
            stream = self.keys.queue(queue)
            length = int(self.link.client.xlen(stream))
            try:
                pending = int(cast(Any, self.link.client.xpending(stream, group))["pending"])
            except ResponseError as error:
                # Its reader has not come up yet: all that is there waits.
                if not str(error).startswith("NOGROUP"):
                    raise
                pending = 0
            return max(0, length - pending), pending

        return self.link.call("queue_depth", read)

    def trim(self, queue: str, group: str) -> int:
        return self.link.number("trim", [self.keys.queue(queue)], [group]) or 0

    def discard(self, queue: str, group: str, unwanted: Callable[[Message], bool], fence: int) -> int:
        dropped, begin = 0, "-"
        while page := self._page(self.keys.queue(queue), begin):
            ids = [entry_id for entry_id, fields in page if _is(unwanted, fields)]
            self._fenced("discard", [self.keys.queue(queue), self.keys.attempts(queue)], fence, [group, *ids])
            dropped += len(ids)
            begin = f"({text(page[-1][0])}"
        return dropped

    def _page(self, stream: str, begin: str) -> list[tuple[bytes, dict[bytes, bytes]]]:
        found = self.link.call("discard", lambda: self.link.client.xrange(stream, min=begin, count=PAGE))
        return cast(list[tuple[bytes, dict[bytes, bytes]]], found)

    # Payloads --------------------------------------------------------------------------------------------
    def get_payload(self, ref: PayloadRef) -> bytes:
        key = self.keys.payload(ref.key)
        data = self.link.call("get_payload", lambda: self.link.client.hget(key, ref.field))
        if data is None:
            raise no_payload(ref)
        check(ref, cast(bytes, data))
        return cast(bytes, data)

    def drop_payloads(self, key: str, fence: int) -> None:
        self._fenced("drop_payloads", [self.keys.payload(key)], fence, [])

    def payload_keys(self) -> list[str]:
        pattern, prefix = self.keys.payload(f"{PAYLOADS}*"), len(self.keys.prefix)
        found = self.link.call(
            "payload_keys", lambda: list(self.link.client.scan_iter(match=pattern, count=1000, _type="HASH"))
        )
        return sorted(text(cast(bytes, key))[prefix:] for key in found)

    def _fenced(self, script: str, keys: Sequence[str], fence: int, arguments: Sequence[Argument]) -> None:
        """Raises FencedError if another broker holds the fence."""
        answer = self.link.script(script, [self.keys.token(LEADER), *keys], [fence, *arguments])
        word, details = word_of(answer)
        if word == "fence":
            raise stale_fence(LEADER, fence, int(details[0]) if details[0] else None)

    def _work_keys(self, delivery: Delivery) -> list[str]:
        return [self.keys.queue(delivery.queue), self.keys.attempts(delivery.queue)]

    def _details(self, answer: Sequence[object], queues: Sequence[str]) -> list[str | None]:
        """Details of an answer that went well. Raises UnavailableError or StorageError for what did not."""
        word, details = word_of(answer)
        if word == "type":
            raise wrong_type(details)
        if word == "noqueue":
            raise no_queue(next(queue for queue in queues if self.keys.queue(queue) == details[0]))
        return details


def _is(unwanted: Callable[[Message], bool], fields: dict[bytes, bytes]) -> bool:
    try:
        return unwanted(message_of([part for pair in fields.items() for part in pair]))
    except MalformedMessageError:
        return False


def _identity(delivery: Delivery) -> tuple[Argument, ...]:
    return delivery.group, delivery.consumer, delivery.entry_id, delivery.attempt


def _ms(seconds: float) -> int:
    # Never 0: to Redis, BLOCK 0 is to wait for ever, and a time to live of 0 is an error.
    return max(1, round(seconds * 1000))
