"""Ctrl-C and SIGTERM are noted, not raised, so that everything can be stopped in order."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted:
    """True after Ctrl-C or SIGTERM."""

    def __init__(self) -> None:
        self._noted = False

    def __call__(self) -> bool:
        return self._noted

    def note(self, _signal: int, _frame: FrameType | None) -> None:
        self._noted = True


@contextmanager
def interruptible() -> Iterator[Interrupted]:
    """Signals are only noted from here on, so that everything is stopped in order."""
    interrupted = Interrupted()
    before = {name: signal.signal(name, interrupted.note) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupted
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
