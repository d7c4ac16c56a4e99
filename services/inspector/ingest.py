"""Reading the event stream into the store, for as long as the service lives.

What always holds: every call to the bus has a deadline; a server that is away is asked again, with a back-off,
until it is back; and what was not read because the stream was trimmed or began anew is in the log as a gap.
"""

import threading
from collections.abc import Sequence
from typing import Literal, Protocol

import structlog
from prometheus_client import Counter

from services.inspector.store.database import DamagedStoreError
from services.inspector.store.records import START, Entry, Gap, gap_id, just_before, order_of
from services.inspector.store.sealed import SealedBatches
from services.inspector.store.store import Store
from shared.clock import Clock
from shared.contracts.events import BatchReady, Event
from shared.errors import StorageError, UnavailableError

BATCH = 500
BLOCK_S = 1.0
FIRST_RETRY_S = 0.1
LAST_RETRY_S = 2.0

EVENTS = Counter("opcod_inspector_events", "Events stored, by kind.", ["kind"])
DUPLICATES = Counter("opcod_inspector_duplicates", "Events read again that were stored already.")
GAPS = Counter("opcod_inspector_gaps", "Stretches of the event stream that could not be read.", ["reason"])
for _reason in ("trimmed", "restarted"):
    GAPS.labels(_reason)  # at 0 from the start: what appears at 1 shows no increase
UNREADABLE = Counter("opcod_inspector_unreadable_batches", "Sealed batches whose texts could not be read.")

Continuity = Literal["whole", "trimmed", "restarted"]
Read = Sequence[tuple[str, Event]]
log = structlog.get_logger()


class EventSource(Protocol):
    """The part of the bus that ingest reads."""

    def read_events(self, after: str, *, count: int, block_s: float) -> list[tuple[str, Event]]: ...

    def first_event_id(self) -> str | None: ...

    def events_were_trimmed(self) -> bool: ...


class Ingest:
    """One reader of one stream; `run` is its thread, `problem` may be asked from any other."""

    def __init__(
        self,
        source: EventSource,
        store: Store,
        sealed: SealedBatches,
        *,
        name: str,
        clock: Clock,
        silent_s: float,
        block_s: float = BLOCK_S,
    ) -> None:
        self._source = source
        self._store = store
        self._sealed = sealed
        self._name = name
        self._clock = clock
        self._silent_s = silent_s
        self._block_s = block_s
        self._problem: str | None = "the event stream was not read yet"
        self._last_turn_s = clock.monotonic_s()

    def run(self, stopping: threading.Event) -> None:
        """Read until `stopping`. Only what is neither the server's nor the disk's fault ends it earlier, and a store
        that is damaged."""
        delay_s = FIRST_RETRY_S
        while not stopping.is_set():
            try:
                self.pull()
                self._store.check_writable()  # here, since a probe must not wait for a disk
            except DamagedStoreError:
                raise  # it stays damaged; the next start begins a new one
            except (UnavailableError, StorageError) as error:
                self._turn(str(error))
                stopping.wait(delay_s)
                # Short even at its longest: people look at this page to see that something is wrong.
                delay_s = min(2 * delay_s, LAST_RETRY_S)
            else:
                self._turn(None)
                delay_s = FIRST_RETRY_S

    def problem(self) -> str | None:
        """Why events do not come in or cannot be kept now, or None. From memory."""
        silent_s = self._clock.monotonic_s() - self._last_turn_s
        if silent_s > self._silent_s:
            return f"ingest has not answered for {silent_s:.0f} s, expected at most {self._silent_s:.0f} s"
        # Asked second: a thread that hangs leaves the last word, maybe a good one, standing for ever.
        return self._problem

    def pull(self) -> None:
        """Read once, at most BATCH events, and store them. Raises UnavailableError, StorageError."""
        cursor = self._store.cursor
        events = self._source.read_events(cursor, count=BATCH, block_s=self._block_s)
        continuity = self._continuity(cursor)
        # What was just read is thrown away: it is the new stream's part behind an id of the old one. The next turn
        # reads the new one from its start.
        if continuity == "restarted":
            self._start_over(cursor)
        elif events:
            gaps = [self._gap(cursor, events[0][0], "trimmed")] if continuity == "trimmed" else []
            self._keep([*gaps, *(self._entry(stream_id, event) for stream_id, event in events)], events[-1][0])

    def _continuity(self, cursor: str) -> Continuity:
        """Whether nothing is missing after `cursor`, asked after the events behind it were read.

        The stream is only ever cut at its old end. So if the event at the cursor is still there, all later ones
        were; if older ones are there but it is not, the stream is another one than the cursor is from.
        """
        if cursor == START:
            # A store that is made anew while the run goes on begins where Redis still begins.
            return "trimmed" if self._source.events_were_trimmed() else "whole"
        # Asked after the read, never before: what is trimmed in between is then noticed.
        at_cursor = self._source.read_events(just_before(cursor), count=1, block_s=0)
        if at_cursor and at_cursor[0][0] == cursor:
            return "whole"
        first = self._source.first_event_id()
        return "restarted" if first is not None and order_of(first) <= order_of(cursor) else "trimmed"

    def _start_over(self, cursor: str) -> None:
        first = self._source.first_event_id()
        if first is not None:
            # The gap and the new cursor in one transaction: the log never starts over without saying so.
            self._keep([self._gap(cursor, first, "restarted")], START)

    def _keep(self, entries: Sequence[Entry], cursor: str) -> None:
        DUPLICATES.inc(self._store.append(entries, cursor))
        for entry in entries:
            EVENTS.labels(entry.event.kind).inc()

    def _entry(self, stream_id: str, event: Event) -> Entry:
        if not isinstance(event, BatchReady):
            return Entry(stream_id, event)
        try:
            # An unreadable batch must not stop the stream: its exchanges stay as events told them, long texts cut,
            # until BatchReader can read it.
            return Entry(stream_id, event, self._sealed.exchanges(event))
        except StorageError as error:
            UNREADABLE.inc()
            log.warning("sealed batch not read", error=str(error), student=event.student, step=event.step)
            return Entry(stream_id, event)

    def _gap(self, after: str, before: str, reason: Literal["trimmed", "restarted"]) -> Entry:
        GAPS.labels(reason).inc()
        log.warning("gap in the event stream", after=after, before=before, reason=reason)
        gap = Gap(at=self._clock.wall_s(), source=self._name, after=after, before=before, reason=reason)
        return Entry(gap_id(before), gap)

    def _turn(self, problem: str | None) -> None:
        self._last_turn_s = self._clock.monotonic_s()
        if problem != self._problem:
            if problem is not None:
                log.warning("events do not come in", reason=problem)
            else:
                log.info("events come in", cursor=self._store.cursor)
        self._problem = problem
