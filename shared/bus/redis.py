"""The bus on Redis 7.0 or later, or Valkey: what runs and tests of whole systems use.

What always holds: the promises of the port, across crashes of any process and, with `appendonly yes`, of Redis.
One RedisBus is safe to use from any number of threads.
"""

import time
from typing import Any, cast

import structlog
from pydantic import ValidationError

from shared.bus.keys import LEADER, RESULTS, trainer_lease
from shared.bus.port import WAIT_SLICE_S, Commit, lost_ack, stale_fence, stale_revision
from shared.bus.redis_entries import EVENT_JSON, cursor, text, word_of, writes
from shared.bus.redis_link import Argument
from shared.bus.redis_work import RedisWork
from shared.contracts.envelope import Message, wrap
from shared.contracts.events import EVENT, Event
from shared.contracts.heartbeats import Heartbeat
from shared.contracts.ids import version_steps
from shared.contracts.weights import WeightsPublished

log = structlog.get_logger(__name__)


class RedisBus(RedisWork):
    """The whole bus of one run on one Redis."""

    # The run's state -------------------------------------------------------------------------------------
    def load_state(self) -> str | None:
        return self._string("load_state", self.keys.state)

    def commit(self, commit: Commit) -> None:
        written = writes(self.keys, commit.publish, commit.payloads)
        # In the order of lua/commit.lua. Without a delivery to acknowledge, two keys that the script has anyway stand
        # in for those of a queue.
        keys = [self.keys.token(LEADER), self.keys.state, self.keys.revision, self.keys.events]
        keys += self._work_keys(commit.ack) if commit.ack else [self.keys.state, self.keys.revision]
        keys += [self.keys.serve(student) for student, _ in commit.serve]
        arguments = _commit_arguments(commit, self.event_cap)
        answer = self.link.script("commit", [*keys, *written.keys], [*arguments, *written.arguments])
        word, details = word_of(answer)
        if word == "fence":
            raise stale_fence(LEADER, commit.fence, int(details[0]) if details[0] else None)
        if word == "revision":
            raise stale_revision(commit.revision, int(details[0] or 0))
        if word == "late" and commit.ack is not None:
            raise lost_ack(commit.ack)
        self._details(answer, written.queues)
        if commit.ack is not None:
            # Only now: after a commit that failed the delivery is still in our hands, and is handled again.
            self._held.drop(commit.ack)

    def serve_set(self, student: str) -> str | None:
        return self._string("serve_set", self.keys.serve(student))

    # Leases ----------------------------------------------------------------------------------------------
    def acquire_lease(self, name: str, holder: str, *, ttl_s: float, floor: int = 0) -> int | None:
        keys = [self.keys.lease(name), self.keys.token(name)]
        return self.link.number("acquire_lease", keys, [holder, _ms(ttl_s), floor])

    def ask_turn(self, name: str, holder: str, *, ttl_s: float) -> int | None:
        keys = [self.keys.lease(name), self.keys.token(name), self.keys.line(name), self.keys.asked(name)]
        return self.link.number("ask_turn", keys, [holder, _ms(ttl_s)])

    def waiting(self, name: str, *, ttl_s: float) -> list[str]:
        found = self.link.script("waiting", [self.keys.line(name), self.keys.asked(name)], [_ms(ttl_s)])
        return [text(holder) for holder in cast(list[bytes], found)]

    def renew_lease(self, name: str, holder: str, token: int, *, ttl_s: float) -> bool:
        keys = [self.keys.lease(name), self.keys.token(name)]
        return self.link.number("renew_lease", keys, [holder, _ms(ttl_s), token]) == 1

    def release_lease(self, name: str, holder: str, token: int) -> None:
        self.link.number("release_lease", [self.keys.lease(name)], [holder, token])

    # Weights ---------------------------------------------------------------------------------------------
    def announce_version(self, published: WeightsPublished, done: Message, token: int) -> bool:
        student, lease = published.student, trainer_lease(published.student)
        # One script: the head moves and the broker is told, or neither, whenever the trainer dies.
        keys = [self.keys.token(lease), self.keys.weights_head(student), self.keys.queue(RESULTS)]
        answer = self.link.script("announce_version", keys, [token, version_steps(published.version), wrap(done)])
        word, details = word_of(answer)
        if word == "fence":
            raise stale_fence(lease, token, int(details[0]) if details[0] else None)
        self._details(answer, (RESULTS,))
        return word == "ok"

    # Log and presence ------------------------------------------------------------------------------------
    def emit(self, event: Event) -> None:
        fields: Any = {EVENT_JSON: event.model_dump_json()}
        self.link.call(
            "emit",
            lambda: self.link.client.xadd(self.keys.events, fields, maxlen=self.event_cap, approximate=True),
        )

    def read_events(self, after: str, *, count: int, block_s: float) -> list[tuple[str, Event]]:
        # Refused here: to Redis a wrong id is a fault of the command, and it would look like a broken server.
        cursor(after)
        deadline = time.monotonic() + block_s
        while True:
            entries = self._entries_after(after, count)
            found = [(text(i), event) for i, fields in entries if (event := _event(i, fields)) is not None]
            left_s = deadline - time.monotonic()
            if found or (left_s <= 0 and not entries):
                return found
            # A page of nothing but unreadable events: go on behind it, instead of waiting for what is there already.
            if entries:
                after = text(entries[-1][0])
            else:
                self._wait({self.keys.events: after.encode()}, min(left_s, WAIT_SLICE_S))

    def _entries_after(self, after: str, count: int) -> list[tuple[bytes, dict[bytes, bytes]]]:
        entries = self.link.call(
            "read_events", lambda: self.link.client.xrange(self.keys.events, f"({after}", count=count)
        )
        return cast(list[tuple[bytes, dict[bytes, bytes]]], entries)

    def first_event_id(self) -> str | None:
        entries = self._entries_after("0", 1)
        return text(entries[0][0]) if entries else None

    def events_were_trimmed(self) -> bool:
        if self.first_event_id() is None:
            return False
        info = self.link.call("events_were_trimmed", lambda: self.link.client.xinfo_stream(self.keys.events))
        found = cast(dict[str, int], info)
        # Servers before 7.0 do not count what was added.
        return found.get("entries-added", found["length"]) > found["length"]

    def last_event_id(self) -> str:
        """Id of the newest event; "0" where there is none: what comes after it is new."""
        entries = self.link.call("last_event_id", lambda: self.link.client.xrevrange(self.keys.events, count=1))
        found = cast(list[tuple[bytes, dict[bytes, bytes]]], entries)
        return text(found[0][0]) if found else "0"

    def beat(self, heartbeat: Heartbeat, *, ttl_s: float) -> None:
        key = self.keys.heartbeat(heartbeat.service, heartbeat.replica)
        self.link.call("beat", lambda: self.link.client.set(key, heartbeat.model_dump_json(), px=_ms(ttl_s)))

    def heartbeats(self) -> list[Heartbeat]:
        def read() -> list[bytes | None]:
            # Not KEYS, which stops the server for everybody. A heartbeat may run out before it is read.
            names = sorted(self.link.client.scan_iter(match=f"{self.keys.heartbeats}*", count=1000))
            return cast(list[bytes | None], self.link.client.mget(names)) if names else []

        found = self.link.call("heartbeats", read)
        return [beat for data in found if data is not None and (beat := _heartbeat(data)) is not None]

    def _string(self, operation: str, key: str) -> str | None:
        found = self.link.call(operation, lambda: self.link.client.get(key))
        return None if found is None else cast(bytes, found).decode()


def _commit_arguments(commit: Commit, event_cap: int) -> list[Argument]:
    """See the head of lua/commit.lua."""
    ack = commit.ack
    identity: tuple[Argument, ...] = ("", "", "", "")
    if ack is not None:
        identity = (ack.group, ack.consumer, ack.entry_id, ack.attempt)
    serve, events = [text_ for _, text_ in commit.serve], [event.model_dump_json() for event in commit.events]
    sizes = (len(serve), len(events))
    head: list[Argument] = [commit.fence, commit.revision, commit.state, event_cap, "1" if commit.rebuild else ""]
    return [*head, *identity, *sizes, *serve, *events]


def _event(entry_id: bytes, fields: dict[bytes, bytes]) -> Event | None:
    """None for an event of another release: the log is for people, and one line must not stop it."""
    try:
        return EVENT.validate_json(fields.get(EVENT_JSON, b""))
    except ValidationError as error:
        log.warning("event_skipped", entry_id=text(entry_id), reason="unreadable", errors=error.error_count())
        return None


def _heartbeat(data: bytes) -> Heartbeat | None:
    try:
        return Heartbeat.model_validate_json(data)
    except ValidationError as error:
        log.warning("heartbeat_skipped", reason="unreadable", errors=error.error_count())
        return None


def _ms(seconds: float) -> int:
    # Never 0, which Redis refuses as a time to live.
    return max(1, round(seconds * 1000))
