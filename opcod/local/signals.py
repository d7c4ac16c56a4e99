"""Ctrl-C and SIGTERM: noted where everything must be stopped in order, raised where one thing takes long."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from shared.errors import StoppedError

SIGNALS = (signal.SIGINT, signal.SIGTERM)


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
    with _handled(interrupted.note):
        yield interrupted


@contextmanager
def stoppable(what: str) -> Iterator[None]:
    """Signals end what is done in here, which asks nobody whether to go on: they raise StoppedError."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise StoppedError(f"stopped while {what}; the next start begins with it again")

    with _handled(stop):
        yield


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    # Put back at the end, so that these may be nested.
    before = {name: signal.signal(name, handler) for name in SIGNALS}
    try:
        yield
    finally:
        for name, earlier in before.items():
            signal.signal(name, earlier)
