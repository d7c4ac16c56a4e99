"""Time as a port, so that rules that depend on it can be tested without waiting."""

import time
from typing import Protocol


class Clock(Protocol):
    """Seconds: `wall_s` since the epoch, `monotonic_s` for measuring spans."""

    def wall_s(self) -> float: ...

    def monotonic_s(self) -> float: ...


class SystemClock:
    """The machine's own clocks."""

    def wall_s(self) -> float:
        return time.time()

    def monotonic_s(self) -> float:
        return time.monotonic()
