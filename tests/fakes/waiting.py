"""Waiting in tests for what other processes do: until it is there, or a deadline that only a defect reaches."""

import time
from collections.abc import Callable


def wait_until(reached: Callable[[], bool], what: str, *, deadline_s: float = 60.0, pause_s: float = 0.05) -> None:
    deadline = time.monotonic() + deadline_s
    while not reached():
        assert time.monotonic() < deadline, f"waited {deadline_s:.0f} s for {what}"
        time.sleep(pause_s)
