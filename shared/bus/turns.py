"""Turns on a GPU that several processes share, each of which wants its memory to itself while it works.

What always holds: the card goes to those who ask in the order in which they asked; one that died, or that asks no more,
is passed over after the lease's time. Whoever has it frees the card's memory before it gives the turn back.
"""

import threading
from collections.abc import Callable

import structlog

from shared.bus.keys import CARD
from shared.bus.leases import HeldLease
from shared.bus.port import Bus
from shared.clock import Clock
from shared.errors import UnavailableError

ASK_S = 0.25
"""Between two questions whether it is our turn, or whether somebody waits."""

log = structlog.get_logger()


class CardTurn:
    """A process's turns, one after the other. Used by one thread."""

    def __init__(self, bus: Bus, holder: str, clock: Clock, *, ttl_s: float) -> None:
        """holder: a name that no other process of the run has. ttl_s: until one that died is passed over."""
        self._bus = bus
        self._holder = holder
        self._clock = clock
        self._ttl_s = ttl_s
        self._lease: HeldLease | None = None
        self._asked_s = self._looked_s = -ASK_S
        self._wanted = False
        self.since_s = 0.0

    @property
    def held(self) -> bool:
        """It is our turn, as far as we know: also where the server could not be told so for a while."""
        return self._lease is not None

    @property
    def lost(self) -> bool:
        """Somebody else may have it by now: free the card's memory."""
        return self._lease is not None and self._lease.lost.is_set()

    def ask(self) -> bool:
        """Whether it is our turn; asks the bus, and so keeps our place, every ASK_S. Raises UnavailableError."""
        if self._lease is not None:
            return True
        now_s = self._clock.monotonic_s()
        if now_s - self._asked_s < min(ASK_S, self._ttl_s / 3):
            return False
        self._asked_s = now_s
        lease = HeldLease(self._bus, CARD, self._holder, ttl_s=self._ttl_s, in_turn=True)
        if not lease.try_acquire():
            return False
        self._lease, self.since_s = lease, now_s
        log.info("turn taken", holder=self._holder, token=lease.token)
        return True

    def wait(self, stopping: threading.Event, alive: Callable[[], None] = lambda: None) -> bool:
        """Until it is our turn; False where `stopping` is set before. alive: called again and again meanwhile."""
        while not stopping.is_set():
            alive()
            try:
                if self.ask():
                    return True
            except UnavailableError as error:
                log.warning("the bus does not answer, the turn is waited for", error=str(error))
            stopping.wait(min(ASK_S, self._ttl_s / 3))
        return False

    def wanted(self) -> bool:
        """Whether others wait for it, as far as is known; looked up every ASK_S."""
        now_s = self._clock.monotonic_s()
        if now_s - self._looked_s >= ASK_S:
            self._looked_s = now_s
            try:
                self._wanted = bool(self._bus.waiting(CARD, ttl_s=self._ttl_s))
            except UnavailableError as error:
                log.warning("the bus does not answer who waits for the turn", error=str(error))
        return self._wanted

    def give_back(self) -> None:
        """Nothing happens if it is not ours. Without an answer of the server it runs out by itself."""
        lease, self._lease, self._wanted = self._lease, None, False
        if lease is None:
            return
        # Before the lease ends: who comes next must find this in the log before its own turn.
        log.info("turn given back", holder=self._holder, token=lease.token)
        try:
            lease.release()
        except UnavailableError as error:
            log.warning("turn not given back, it runs out", error=str(error))
