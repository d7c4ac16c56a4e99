"""One thing at a time is resident, and many want to work with one each: who may, and who waits. No I/O.

What always holds: all who work at once work with what is resident; it changes only while nobody works. Nobody starves:
once somebody waits for another one, whoever comes later waits too, and when those who work have ended, the one that is
waited for longest comes, for all who wait for it. So a wait lasts for as many turns as others were waited for before.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from services.student.engines.port import Unwanted
from shared.errors import ModelError

CHECK_S = 0.2
"""How soon somebody who is not wanted any more stops waiting."""

Key = TypeVar("Key")


@dataclass(eq=False)
class _Wait(Generic[Key]):
    key: Key
    admitted: bool = False


class Residency(Generic[Key]):
    """May be used from any thread.

    swap: makes its argument resident, and raises ModelError where what was resident before still is. After any other
    error nothing is.
    """

    def __init__(self, swap: Callable[[Key], None]) -> None:
        self._swap = swap
        self._changed = threading.Condition()
        self._resident: Key | None = None
        self._working = 0
        self._waiting: list[_Wait[Key]] = []

    def enter(self, key: Key, unwanted: Unwanted) -> None:
        """Returns when `key` is resident, and it stays so until `leave`. Raises what `unwanted` returns, and what the
        swap raises.
        """
        with self._changed:
            # Not past those who wait: a stream of requests for what is resident would keep all others out for ever.
            if key == self._resident and not self._waiting:
                self._working += 1
                return
            wait = _Wait(key)
            self._waiting.append(wait)
            try:
                while not wait.admitted:
                    self._go_on(wait, unwanted)
            finally:
                # Who gives up may have been the first in line: the next one must look again, hence the notification.
                if not wait.admitted:
                    self._waiting.remove(wait)
                self._changed.notify_all()

    def leave(self) -> None:
        with self._changed:
            self._working -= 1
            self._changed.notify_all()

    def _go_on(self, wait: _Wait[Key], unwanted: Unwanted) -> None:
        """Takes the turn if it has come, else waits for a change."""
        if (reason := unwanted()) is not None:
            raise reason
        resident = wait.key == self._resident
        if self._waiting[0] is not wait or not (resident or self._working == 0):
            self._changed.wait(CHECK_S)
            return
        # Only who is first in line comes here, so at most one swap runs though the lock is let go of in it.
        if not resident:
            self._make_resident(wait.key)
        together = [one for one in self._waiting if one.key == wait.key]
        self._waiting = [one for one in self._waiting if one not in together]
        self._working += len(together)
        for one in together:
            one.admitted = True

    def _make_resident(self, key: Key) -> None:
        """The lock is let go of meanwhile: who comes then waits behind, as the first in line is still there."""
        before, self._resident = self._resident, None
        now: Key | None = None
        self._changed.release()
        try:
            self._swap(key)
            now = key
        except ModelError:
            now = before
            raise
        finally:
            self._changed.acquire()
            self._resident = now
