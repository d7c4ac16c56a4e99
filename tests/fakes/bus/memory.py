"""The bus in memory, for tests of services without Redis and for nothing else: it dies with its process.

What always holds: it keeps every promise of the port, and runs the same contract tests as the real one.
`MemoryBus(clock=...)` has a server of its own; give several buses one MemoryServer to play several processes.
"""

import time

from shared.bus.keys import RESULTS, trainer_lease
from shared.bus.port import WAIT_SLICE_S, Commit, lost_ack, stale_fence, stale_revision
from shared.bus.redis_entries import cursor
from shared.contracts.envelope import Message, wrap
from shared.contracts.events import EVENT, Event
from shared.contracts.heartbeats import Heartbeat
from shared.contracts.ids import version_steps
from shared.contracts.weights import WeightsPublished
from tests.fakes.bus.memory_server import MemoryLease, MemoryServer
from tests.fakes.bus.memory_work import MemoryWork, prepare


class MemoryBus(MemoryWork):
    """The whole bus on one MemoryServer."""

    # The run's state -------------------------------------------------------------------------------------
    def load_state(self) -> str | None:
        with self._open("load_state") as server:
            return server.state

    def commit(self, commit: Commit) -> None:
        prepared = prepare(commit.publish, commit.payloads)
        with self._open("commit", wakes=True) as server:
            if self._check(server, commit):
                return
            targets = [self._existing(server, queue) for queue, _ in prepared.messages]
            server.state, server.revision = commit.state, commit.revision
            server.serve.update(commit.serve)
            self._write(server, targets, prepared)
            for event in commit.events:
                self._log(server, event)
            if commit.ack is not None:
                server.queue(commit.ack.queue).remove(commit.ack.group, commit.ack.entry_id)
        if commit.ack is not None:
            self._held.drop(commit.ack)

    def _check(self, server: MemoryServer, commit: Commit) -> bool:
        """True if this very commit is already there (its answer was lost). Raises FencedError."""
        server.require_fence(commit.fence)
        if server.state is not None:
            if (server.revision, server.state) == (commit.revision, commit.state):
                return True
            behind = commit.revision - server.revision
            if behind != 1 and not (commit.rebuild and behind > 1):
                raise stale_revision(commit.revision, server.revision)
        if commit.ack is not None and not server.queue(commit.ack.queue).owned(commit.ack):
            raise lost_ack(commit.ack)
        return False

    def serve_set(self, student: str) -> str | None:
        with self._open("serve_set") as server:
            return server.serve.get(student)

    # Leases ----------------------------------------------------------------------------------------------
    def acquire_lease(self, name: str, holder: str, *, ttl_s: float, floor: int = 0) -> int | None:
        with self._open("acquire_lease") as server:
            now_s, lease = server.clock.monotonic_s(), server.leases.get(name)
            if lease is not None and lease.until_s > now_s and lease.holder != holder:
                return None
            token = max(server.tokens.get(name, 0), floor) + 1
            server.tokens[name] = token
            server.leases[name] = MemoryLease(holder, token, now_s + ttl_s)
            return token

    def ask_turn(self, name: str, holder: str, *, ttl_s: float) -> int | None:
        with self._open("ask_turn") as server:
            # Places by when they came, which a dict keeps; of each, when it asked last.
            line = server.lines.setdefault(name, {})
            now_s = server.clock.monotonic_s()
            line.setdefault(holder, now_s)
            line[holder] = now_s
            for other in [other for other, asked_s in line.items() if now_s - asked_s > ttl_s]:
                del line[other]
            if next(iter(line)) != holder or (token := self.acquire_lease(name, holder, ttl_s=ttl_s)) is None:
                return None
            del line[holder]
            return token

    def waiting(self, name: str, *, ttl_s: float) -> list[str]:
        with self._open("waiting") as server:
            now_s = server.clock.monotonic_s()
            return [holder for holder, asked_s in server.lines.get(name, {}).items() if now_s - asked_s <= ttl_s]

    def renew_lease(self, name: str, holder: str, token: int, *, ttl_s: float) -> bool:
        with self._open("renew_lease") as server:
            lease = server.leases.get(name)
            if lease is None or (lease.holder, lease.token) != (holder, token):
                return False
            lease.until_s = server.clock.monotonic_s() + ttl_s
            return True

    def release_lease(self, name: str, holder: str, token: int) -> None:
        with self._open("release_lease") as server:
            lease = server.leases.get(name)
            if lease is not None and (lease.holder, lease.token) == (holder, token):
                lease.until_s = server.clock.monotonic_s()

    # Weights ---------------------------------------------------------------------------------------------
    def announce_version(self, published: WeightsPublished, done: Message, token: int) -> bool:
        lease = trainer_lease(published.student)
        steps, answer = version_steps(published.version), wrap(done)
        with self._open("announce_version", wakes=True) as server:
            current = server.tokens.get(lease)
            if current != token:
                raise stale_fence(lease, token, current)
            results = self._existing(server, RESULTS)
            head = server.heads.get(published.student)
            newer = head is None or head < steps
            if newer:
                server.heads[published.student] = steps
            results.add(answer)
            return newer

    # Log and presence ------------------------------------------------------------------------------------
    def emit(self, event: Event) -> None:
        with self._open("emit", wakes=True) as server:
            self._log(server, event)

    def _log(self, server: MemoryServer, event: Event) -> None:
        server.events[next(server.numbers)] = event.model_dump_json()
        while len(server.events) > self.event_cap:
            del server.events[next(iter(server.events))]
            server.events_trimmed = True

    def read_events(self, after: str, *, count: int, block_s: float) -> list[tuple[str, Event]]:
        deadline = time.monotonic() + block_s
        first, _ = cursor(after)
        while True:
            with self._open("read_events") as server:
                found = [(n, text) for n, text in server.events.items() if n > first][:count]
                left_s = deadline - time.monotonic()
                if found or left_s <= 0:
                    return [(f"{number}-0", EVENT.validate_json(text)) for number, text in found]
                server.changed.wait(min(left_s, WAIT_SLICE_S))

    def first_event_id(self) -> str | None:
        with self._open("first_event_id") as server:
            return next((f"{number}-0" for number in server.events), None)

    def events_were_trimmed(self) -> bool:
        with self._open("events_were_trimmed") as server:
            return server.events_trimmed

    def beat(self, heartbeat: Heartbeat, *, ttl_s: float) -> None:
        with self._open("beat") as server:
            until_s = server.clock.monotonic_s() + ttl_s
            server.beats[heartbeat.service, heartbeat.replica] = (until_s, heartbeat)

    def heartbeats(self) -> list[Heartbeat]:
        with self._open("heartbeats") as server:
            now_s = server.clock.monotonic_s()
            return [beat for _, (until_s, beat) in sorted(server.beats.items()) if until_s > now_s]

    def close(self) -> None:
        """Nothing to close; the server lives on as long as somebody holds it."""
