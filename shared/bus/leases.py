"""Threads that keep what a process holds: the leases of its deliveries, and a named lease.

What always holds: `lost` is set as soon as a renewal says so, and at the latest when no renewal succeeded for a
whole lease; it is never cleared. Who `waits` is not taken for the loser where the server gives no answer: whoever may
take it over asks the same server, which says who has it once it answers again. Until then it may be another's, so this
is for who has the server confirm it before what is done with it counts, and who stands in nobody's way meanwhile.
Renewals run on a thread of their own, since generation and training block everything else. Spans are measured with the
monotonic clock.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import structlog

from shared.bus.port import Bus, Delivery
from shared.errors import UnavailableError

# So two in a row may fail, or come late, before a lease is lost.
RENEWALS_PER_LEASE = 3

log = structlog.get_logger(__name__)


class _Ticker:
    """Calls `tick` every `period_s` on a daemon thread, until stopped. Whatever a tick raises, `failed` is called and
    the next one comes: a thread that ended here would leave its leases to others without a word."""

    def __init__(
        self, name: str, period_s: float, tick: Callable[[], None], failed: Callable[[Exception], None]
    ) -> None:
        self._stopped = threading.Event()
        self._period_s = period_s
        self._tick = tick
        self._failed = failed
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopped.wait(self._period_s):
            try:
                self._tick()
            except Exception as error:  # noqa: BLE001 - whatever it is, nothing was renewed
                self._failed(error)
                log.warning("lease not renewed", thread=self._thread.name, reason=str(error) or repr(error))

    def stop(self) -> None:
        """Returns when the thread has ended."""
        self._stopped.set()
        # A tick may be what stops it, and a thread cannot wait for itself.
        if threading.current_thread() is not self._thread:
            self._thread.join()


@dataclass
class _Kept:
    delivery: Delivery
    renewed_s: float
    lost: threading.Event = field(default_factory=threading.Event)


class LeaseKeeper:
    """Renews deliveries every third of `lease_s`, which must be the bus's own lease. waits: as above."""

    def __init__(self, bus: Bus, *, lease_s: float, waits: bool = False) -> None:
        self._bus = bus
        self._lease_s = lease_s
        self._waits = waits
        self._lock = threading.Lock()
        self._kept: dict[tuple[str, str, int], _Kept] = {}
        self._ticker = _Ticker("lease-keeper", lease_s / RENEWALS_PER_LEASE, self._renew, self._give_up)

    def hold(self, delivery: Delivery) -> threading.Event:
        """Renew `delivery` from now on; the event is set when it is not ours any more: cancel its handler."""
        kept = _Kept(delivery, time.monotonic())
        with self._lock:
            self._kept[_identity(delivery)] = kept
        return kept.lost

    def drop(self, delivery: Delivery) -> None:
        """Stop renewing it; nothing happens if it is not held."""
        with self._lock:
            self._kept.pop(_identity(delivery), None)

    def close(self) -> None:
        """Stop renewing anything."""
        self._ticker.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _renew(self) -> None:
        with self._lock:
            kept = list(self._kept.values())
        # Before the call: the server may have renewed it at any time since, and the earliest counts.
        started_s = time.monotonic()
        # Without the lock: while the server is away, work must still be able to begin and to end.
        ours = {_identity(d) for d in self._bus.renew([k.delivery for k in kept])} if kept else set()
        for one in kept:
            one.renewed_s = started_s
        # Said by the server itself, so at once: who goes on with it would do work that another does, too.
        self._lose([k for k in kept if _identity(k.delivery) not in ours])

    def _give_up(self, error: Exception) -> None:
        """Lose what was not renewed for a whole lease."""
        if self._waits and isinstance(error, UnavailableError):
            return
        with self._lock:
            kept = list(self._kept.values())
        self._lose([k for k in kept if time.monotonic() - k.renewed_s >= self._lease_s])

    def _lose(self, kept: list[_Kept]) -> None:
        with self._lock:
            for one in kept:
                # A delivery that its handler ended meanwhile is not renewed either, and is not lost.
                # Nor is one that was released and taken again since, which has the same attempt.
                if self._kept.get(_identity(one.delivery)) is one:
                    del self._kept[_identity(one.delivery)]
                    one.lost.set()


class HeldLease:
    """A named lease (the broker's, a trainer's) with its fencing token, renewed every third of `ttl_s`."""

    def __init__(
        self, bus: Bus, name: str, holder: str, *, ttl_s: float, in_turn: bool = False, waits: bool = False
    ) -> None:
        """in_turn: it goes to those who try in the order in which they first did (`Bus.ask_turn`). waits: as above."""
        self.lost = threading.Event()
        self._bus = bus
        self._name = name
        self._holder = holder
        self._ttl_s = ttl_s
        self._in_turn = in_turn
        self._waits = waits
        self._token: int | None = None
        self._renewed_s = 0.0
        self._ticker: _Ticker | None = None

    @property
    def token(self) -> int:
        """The fencing token. Raises RuntimeError before `try_acquire` and after `release`."""
        if self._token is None:
            raise RuntimeError(f"lease {self._name!r} is not held: acquire it first")
        return self._token

    def try_acquire(self, *, floor: int = 0) -> bool:
        """Take the lease if nobody else has it, with a token above `floor`. Raises UnavailableError."""
        if self._token is not None:
            raise RuntimeError(f"lease {self._name!r} is held already, with token {self._token}")
        started_s = time.monotonic()
        if self._in_turn:
            self._token = self._bus.ask_turn(self._name, self._holder, ttl_s=self._ttl_s)
        else:
            self._token = self._bus.acquire_lease(self._name, self._holder, ttl_s=self._ttl_s, floor=floor)
        if self._token is None:
            return False
        self._renewed_s = started_s
        self._ticker = _Ticker(f"lease-{self._name}", self._ttl_s / RENEWALS_PER_LEASE, self._renew, self._give_up)
        return True

    def release(self) -> None:
        """Stop renewing and let the next one in; nothing happens if it is not held. Raises UnavailableError."""
        if self._ticker is not None:
            self._ticker.stop()
            self._ticker = None
        # Renewals have ended by now: one that came after the release would find the lease gone, and call it lost.
        token, self._token = self._token, None
        if token is not None:
            self._bus.release_lease(self._name, self._holder, token)

    def _renew(self) -> None:
        token = self._token
        # Lost is for good: a lease that was won back might have been another's in between.
        if token is None or self.lost.is_set():
            return
        started_s = time.monotonic()
        if self._bus.renew_lease(self._name, self._holder, token, ttl_s=self._ttl_s):
            self._renewed_s = started_s
        else:
            self.lost.set()

    def _give_up(self, error: Exception) -> None:
        """Lose it when it was not renewed for all of its time."""
        if self._waits and isinstance(error, UnavailableError):
            return
        if time.monotonic() - self._renewed_s >= self._ttl_s:
            self.lost.set()


def _identity(delivery: Delivery) -> tuple[str, str, int]:
    return delivery.queue, delivery.entry_id, delivery.attempt
