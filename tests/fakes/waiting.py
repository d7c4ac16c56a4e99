"""Waiting in tests for what other processes do: until it is there, or a deadline that only a defect reaches."""

import time
from collections.abc import Callable

WAIT_S = 180.0
"""What takes a moment may take a hundred on a machine that is busy: how long it takes decides no test."""


def wait_until(reached: Callable[[], bool], what: str, *, deadline_s: float = WAIT_S, pause_s: float = 0.05) -> None:
    deadline = time.monotonic() + deadline_s
    while not reached():
        assert time.monotonic() < deadline, f"waited {deadline_s:.0f} s for {what}"
        time.sleep(pause_s)
