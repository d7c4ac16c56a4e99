"""Time as a port, so that rules that depend on it can be tested without waiting."""

import time
from typing import Protocol


class Clock(Protocol):
    """Seconds: `wall_s` since the epoch, `monotonic_s` for measuring spans."""

    def wall_s(self) -> float: ...

    def monotonic_s(self) -> float: ...


class WorkingTime:
    """What spans and deadlines that outlive a process are measured by: wall time that no setting of the clock moves.

    It begins at the wall clock, goes on with the monotonic one, and can leave out a time in which nothing worked. It
    never goes back.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # Read once: whoever sets the wall clock later does not move this one.
        self._ahead_s = clock.wall_s() - clock.monotonic_s()
        self._asked_s = clock.monotonic_s()

    def now_s(self) -> float:
        """Seconds since the epoch."""
        self._asked_s = self._clock.monotonic_s()
        return self._ahead_s + self._asked_s

    def skip(self) -> None:
        """Go on from where it was when it was last asked."""
        # As if nothing had passed since.
        self._ahead_s -= self._clock.monotonic_s() - self._asked_s
        self._asked_s = self._clock.monotonic_s()


class SystemClock:
    """The machine's own clocks."""

    def wall_s(self) -> float:
        return time.time()

    def monotonic_s(self) -> float:
        return time.monotonic()
