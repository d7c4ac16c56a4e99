"""The bus: work queues with leases, payloads, the run's state and its log, behind one port.

What always holds, whichever implementation:
- A message on a queue is delivered at least once, and handled by one consumer at a time as long as that
  consumer renews its lease; `complete` by one that lost it changes nothing and says so.
- A message that a process took and has not ended is not taken by it again, unless another consumer took it in between:
  a `take` that finds its lease run out renews it. After a restart nothing is in its hands (`HeldDeliveries`), so its
  own pending entries come first.
- A queue's group exists before anything is published to it, and starts at the first message.
- The first result of a job wins; later ones are discarded and counted.
- State, outgoing messages and payloads of a `commit` appear together or not at all.

Queues are named without the run's prefix: `jobs:a:rollout`, `results`, `train:a`. Every call may raise
UnavailableError when the server does not answer before the configured deadline.
"""

import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from shared.contracts.envelope import Message
from shared.contracts.events import Event
from shared.contracts.heartbeats import Heartbeat
from shared.contracts.jobs import PayloadRef
from shared.contracts.weights import WeightsPublished
from shared.errors import FencedError, UnavailableError


@dataclass(frozen=True)
class Delivery:
    """One message in this consumer's hands. attempt counts started handlings, this one included. refused_by: consumers
    that handed it over, the first one first."""

    queue: str
    group: str
    consumer: str
    entry_id: str
    message: Message
    attempt: int
    refused_by: tuple[str, ...] = ()


@dataclass(frozen=True)
class Commit:
    """What moves together when the broker handles an event.

    revision: that of `state`; the stored one must be exactly one lower (or absent, for the first).
    publish: messages by queue. payloads: bytes by reference, written if absent. ack: the handled delivery.
    serve: per student the JSON of its ServeSet. rebuild: the state was taken from files that are newer than
    Redis; any stored revision below ours is then accepted.
    """

    fence: int
    revision: int
    state: str
    publish: Sequence[tuple[str, Message]] = ()
    payloads: Sequence[tuple[PayloadRef, bytes]] = ()
    events: Sequence[Event] = ()
    serve: Sequence[tuple[str, str]] = ()
    ack: Delivery | None = None
    rebuild: bool = False


@dataclass(frozen=True)
class DeadLetter:
    entry_id: str
    queue: str
    reason: str
    deliveries: int
    raw: bytes
    fields: dict[str, str] = field(default_factory=dict)


class Bus(Protocol):
    def ping(self) -> None: ...

    # Work queues -----------------------------------------------------------------------------------------
    def create_queue(self, queue: str, group: str) -> None:
        """Create stream and group at 0; nothing happens if they are there."""
        ...

    def publish(self, queue: str, message: Message) -> str: ...

    def take(self, queues: Sequence[tuple[str, str]], consumer: str, *, limit: int, block_s: float) -> list[Delivery]:
        """Up to `limit` messages from (queue, group) pairs in order of priority, stream by stream.

        Per queue: this consumer's own pending entries that it does not hold in memory (after a restart), then
        entries whose lease ran out (XAUTOCLAIM), but for those that it holds, then new ones. A message that does not
        decode goes to the dead letters at once. One with `Delivery.attempt > max_attempts` is handed out as well: the
        caller ends it with `dead_letter(..., announce=...)`, so that the burial and the failed result are one step.
        Every delivery must be ended with complete, release, hand_over or dead_letter, also one whose lease was lost.
        Blocks up to `block_s` only when nothing at all is there. Who has just looked and found nothing is told of what
        comes new at once, and of all else (leases that ran out, what others gave back) within WAIT_SLICE_S.
        """
        ...

    def renew(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Renew the leases; returns those that are still ours."""
        ...

    def complete(
        self,
        delivery: Delivery,
        *,
        announce: tuple[str, Message] | None = None,
        payload: tuple[PayloadRef, bytes] | None = None,
    ) -> bool:
        """Acknowledge, store the payload if absent, announce, delete. False: it was not ours any more."""
        ...

    def release(self, delivery: Delivery) -> None:
        """Give an unfinished message back at once, without counting an attempt (graceful shutdown)."""
        ...

    def hand_over(self, delivery: Delivery, consumer: str) -> None:
        """Give it to `consumer`, to whom it then is one of its own pending messages, without counting an attempt; who
        gave it is in its `refused_by`. One that is not taken within its lease is stolen as usual."""
        ...

    def dead_letter(self, delivery: Delivery, reason: str, *, announce: tuple[str, Message] | None = None) -> bool:
        """Move it to the dead letters and announce the failure, in one step."""
        ...

    def dead_letters(self, count: int = 100) -> list[DeadLetter]: ...

    def retry_dead_letter(self, entry_id: str) -> bool:
        """Publish it on its queue again and drop the letter, in one step. False: there is no such letter."""
        ...

    def drop_dead_letter(self, entry_id: str) -> bool: ...

    def queue_depth(self, queue: str, group: str) -> tuple[int, int]:
        """(waiting, pending): not yet delivered, and in some consumer's hands."""
        ...

    def trim(self, queue: str, group: str) -> int:
        """Drop acknowledged entries below the lowest pending one (MINID, never MAXLEN)."""
        ...

    def discard(self, queue: str, group: str, unwanted: Callable[[Message], bool], fence: int) -> int:
        """Drop what is `unwanted` of all that waits or is in anybody's hands, and say how many: who ends it then is
        late. What cannot be read is left to who takes it. Raises FencedError if another broker holds the fence."""
        ...

    # Payloads --------------------------------------------------------------------------------------------
    def get_payload(self, ref: PayloadRef) -> bytes:
        """Raises StorageError if it is absent or its sha256 differs."""
        ...

    def drop_payloads(self, key: str, fence: int) -> None:
        """Raises FencedError if another broker holds the fence: what nobody needed may be its open work by now."""
        ...

    def payload_keys(self) -> list[str]:
        """Under which payloads lie, sorted."""
        ...

    # The run's state -------------------------------------------------------------------------------------
    def load_state(self) -> str | None: ...

    def commit(self, commit: Commit) -> None:
        """One script: fence, revision, key types and groups are checked before the first write.

        Raises FencedError if another broker holds the fence or the revision is not the expected one.
        """
        ...

    def serve_set(self, student: str) -> str | None: ...

    # Leases ----------------------------------------------------------------------------------------------
    def acquire_lease(self, name: str, holder: str, *, ttl_s: float, floor: int = 0) -> int | None:
        """A fencing token greater than every earlier one and than `floor`, or None while another holds it."""
        ...

    def ask_turn(self, name: str, holder: str, *, ttl_s: float) -> int | None:
        """As `acquire_lease`, in the order of asking: None while another holds it, or asked first. Whoever asks keeps
        its place by asking again within `ttl_s`, else it is passed over."""
        ...

    def waiting(self, name: str, *, ttl_s: float) -> list[str]:
        """Holders that ask for a turn of that lease, the first one first. ttl_s: as they ask."""
        ...

    def renew_lease(self, name: str, holder: str, token: int, *, ttl_s: float) -> bool: ...

    def release_lease(self, name: str, holder: str, token: int) -> None: ...

    # Weights ---------------------------------------------------------------------------------------------
    def announce_version(self, published: WeightsPublished, done: Message, token: int) -> bool:
        """StepDone on `results`, under the trainer's fencing token; False if this version, or a later one, was
        announced before.

        Raises FencedError if the token is not the current one.
        """
        ...

    # Log and presence ------------------------------------------------------------------------------------
    def emit(self, event: Event) -> None: ...

    def read_events(self, after: str, *, count: int, block_s: float) -> list[tuple[str, Event]]:
        """Events with ids greater than `after` ("0" = from the start); ids as Redis gives them."""
        ...

    def first_event_id(self) -> str | None:
        """Oldest event still there: a cursor below it has a gap."""
        ...

    def events_were_trimmed(self) -> bool:
        """Whether there were older events than the oldest that is still there."""
        ...

    def beat(self, heartbeat: Heartbeat, *, ttl_s: float) -> None: ...

    def heartbeats(self) -> list[Heartbeat]: ...

    def close(self) -> None: ...


RELEASED = "-released"
"""Consumer that owns what was given back: nobody's, so that whoever asks next may take it at once."""

WAIT_SLICE_S = 0.5
"""Who takes again and again looks for expired leases so often: they wake nobody, and F2 wants them within a second."""


class HeldDeliveries:
    """What is in this process's hands, by queue, group and consumer. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: defaultdict[tuple[str, str, str], dict[str, Delivery]] = defaultdict(dict)

    def add(self, deliveries: Sequence[Delivery]) -> None:
        with self._lock:
            for delivery in deliveries:
                self._held[_place(delivery)][delivery.entry_id] = delivery

    def drop(self, delivery: Delivery) -> None:
        """Nothing happens where its entry is held as a later delivery: whoever lost it ends it when that is in hand."""
        with self._lock:
            held = self._held[_place(delivery)]
            # The object and not its value: what is released and taken again has the same attempt.
            if held.get(delivery.entry_id) is delivery:
                del held[delivery.entry_id]

    def ids(self, queue: str, group: str, consumer: str) -> list[str]:
        """Of the entries."""
        with self._lock:
            # Sorted, so that a call is the same bytes each time.
            return sorted(self._held[queue, group, consumer])


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
