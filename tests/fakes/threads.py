"""What a service does on and on, in a thread of a test: it ends with the block, and tells there how it failed."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.fakes.waiting import WAIT_S


@contextmanager
def in_thread(work: Callable[[threading.Event], object], stopping: threading.Event | None = None) -> Iterator[None]:
    """`work`, which ends once the event that it is given is set: `stopping`, or one of its own. Raises what it did."""
    ending, failed = stopping or threading.Event(), []

    def run() -> None:
        try:
            work(ending)
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join(WAIT_S)
        for error in failed:
            raise error
        assert not thread.is_alive(), f"{work} goes on {WAIT_S:.0f} s after it was told to end"
