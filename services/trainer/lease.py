"""The right to write a student's checkpoints and versions, which one trainer has at a time.

What always holds: its token is higher than that of every checkpoint on disk, so that a server that lost its data cannot
hand out an old one; and a trainer that lost the lease stops before its next write. One that `waits` goes on computing
while the server gives no answer, and learns from `confirm` whether what it made may be written.
"""

import structlog

from shared.bus.keys import trainer_lease
from shared.bus.leases import HeldLease
from shared.bus.port import Bus
from shared.errors import FencedError, UnavailableError

log = structlog.get_logger()


class LeaseFence:
    """The lease of one student's trainer, held by this process."""

    def __init__(self, bus: Bus, student: str, holder: str, *, ttl_s: float, waits: bool = False) -> None:
        """waits: as in `shared.bus.leases`."""
        self._bus = bus
        self._name = trainer_lease(student)
        self._holder = holder
        self._ttl_s = ttl_s
        self._lease = HeldLease(bus, self._name, holder, ttl_s=ttl_s, waits=waits)

    @property
    def token(self) -> int:
        return self._lease.token

    def try_acquire(self, floor: int) -> bool:
        """False while another process holds it. Raises UnavailableError."""
        return self._lease.try_acquire(floor=floor)

    def check(self) -> None:
        """Raises FencedError once it is lost."""
        if self._lease.lost.is_set():
            raise self._gone()

    def confirm(self) -> None:
        """Raises FencedError unless the server says that the lease is ours; UnavailableError without an answer."""
        self.check()
        # Renewed rather than read: it is then ours for a whole term, which the writes that follow need.
        if not self._bus.renew_lease(self._name, self._holder, self.token, ttl_s=self._ttl_s):
            raise self._gone()

    def release(self) -> None:
        """Let the next trainer in. Without an answer of the server the lease runs out by itself."""
        try:
            self._lease.release()
        except UnavailableError as error:
            log.warning("lease not released, it runs out", error=str(error))

    def _gone(self) -> FencedError:
        return FencedError(
            f"the lease of trainer {self._name} is not held by {self._holder} any more: another trainer may have "
            "gone on; this one stops without writing"
        )
