"""What every fuzz target shares: how long it goes on, a seed, and what a reader of foreign bytes must keep to.

A reader returns, or raises an OpcodError that people and messages can carry: text in UTF-8, short, without a secret. It
raises nothing else, ends soon, and meanwhile writes nothing, runs nothing and calls nobody.
"""

import gc
import itertools
import math
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis.errors import HypothesisWarning
from hypothesis.strategies import SearchStrategy

from shared.errors import MAX_MESSAGE_CHARS, OpcodError

HANG_S = 5.0
"""Of processor time, so that a busy machine is no hang. Waiting without an end is left to the test's own timeout."""

BATCH = 200
"""Examples between two seeds, as long as there is time: hypothesis itself counts examples alone."""

MAX_SHOWN_CHARS = 2000
"""Of a failing example."""

SECRET = "Zq7Vx9Kw3Yp5Jt1Bn8"
"""Goes where a password or a key does."""

_PIECE = 6
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_DEEDS = {
    *("pickle.find_class", "socket.connect", "socket.getaddrinfo", "subprocess.Popen"),
    *("os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system", "os.putenv", "os.unsetenv"),
    *("os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate"),
}
"""Events of the interpreter that no reading needs; opening a file to write is one more."""

Case = TypeVar("Case")
Found = TypeVar("Found")


class HangError(BaseException):
    """A reader took too long. No Exception: readers catch those, and shrinking would wait as long for every try."""


class DeedError(PermissionError):
    """Stops a deed before it is done; what it was stays noted, whoever catches this."""


class _Watch:
    """Of this process, as a hook of the interpreter cannot be taken away: it sleeps until a reader reads."""

    def __init__(self) -> None:
        self.deeds: list[str] = []
        self._place: str | None = None
        self._allowed: tuple[str, ...] = ()
        sys.addaudithook(self._hear)

    @contextmanager
    def over(self, place: Path, allowed: tuple[str, ...]) -> Iterator[None]:
        """place: where the foreign bytes lie. allowed: deeds that a service is there to do."""
        self.deeds, self._allowed, self._place = [], allowed, str(place)
        try:
            yield
        finally:
            self._place = None

    def _hear(self, event: str, details: tuple[Any, ...]) -> None:
        if self._place is None or event in self._allowed:
            return
        if event in _DEEDS or (event == "open" and _writes(*details)) or (event == "exec" and self._foreign(*details)):
            deed = f"{event} {details!r:.200}"
            self.deeds.append(deed)
            raise DeedError(deed)

    def _foreign(self, code: Any) -> bool:
        return self._place is not None and str(code.co_filename).startswith(self._place)


def _writes(path: object, _mode: object, flags: int) -> bool:
    """Not to a descriptor that is open already, and not the interpreter's own cache of a module."""
    return isinstance(path, str | bytes | os.PathLike) and bool(flags & _WRITING) and "__pycache__" not in str(path)


_WATCH = _Watch()


class Fuzz:
    """One target. place: where its files lie. seconds: None tries as many examples as the target says, which are the
    same each time. tried: how many were.
    """

    def __init__(
        self,
        place: Path,
        *,
        seed: int,
        seconds: float | None = None,
        hang_s: float = HANG_S,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.place = place
        self.seed = seed
        self.tried = 0
        self._seconds = seconds
        self._hang_s = hang_s
        self._now = now

    def run(self, cases: SearchStrategy[Case], attempt: Callable[[Case], object], *, examples: int) -> None:
        """Try one case after the other; the first failure is shrunk and raised."""
        end_s = self._now() + (math.inf if self._seconds is None else self._seconds)
        failed = False

        def tried(case: Case) -> None:
            nonlocal failed
            if self._now() >= end_s and not failed:
                return
            self.tried += 1
            before, failed = failed, True
            with self._in_time(case), _noted(f"--hypothesis-seed={self.seed} came to {case!r:.{MAX_SHOWN_CHARS}}"):
                attempt(case)
            failed = before

        batches = [examples] if self._seconds is None else itertools.repeat(BATCH)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", HypothesisWarning)  # that a failing example is long
            for number, size in enumerate(batches):
                if self._now() >= end_s:
                    return
                seed(f"{self.seed}/{number}")(_batch(cases, tried, size))()

    def reads(self, read: Callable[[], Found], *allowed: str) -> Found | None:
        """What `read` returns, None where it refuses; a failed assertion if it does anything that it must not."""
        found, refusal = None, None
        with _WATCH.over(self.place, allowed):
            try:
                found = read()
            except OpcodError as error:
                refusal = error
        assert not _WATCH.deeds, f"reading must do nothing, but it did {_WATCH.deeds}"
        if refusal is not None:
            require_fit_to_show(str(refusal))
        return found

    @contextmanager
    def _in_time(self, case: object) -> Iterator[None]:
        def late(_signal: int, _frame: FrameType | None) -> None:
            raise HangError(f"no answer after {self._hang_s:g} s of processor time to {case!r:.{MAX_SHOWN_CHARS}}")

        before = signal.signal(signal.SIGVTALRM, late)
        # What tests before left to collect can take longer than a case may, and what a destructor raises is lost.
        gc.disable()
        signal.setitimer(signal.ITIMER_VIRTUAL, self._hang_s)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.signal(signal.SIGVTALRM, before)
            gc.enable()


@contextmanager
def _noted(note: str) -> Iterator[None]:
    """Whatever is raised says so."""
    try:
        yield
    finally:
        if (error := sys.exception()) is not None:
            error.add_note(note)


def require_fit_to_show(message: str) -> None:
    """Whether a refusal may be printed, logged, sent and read by anybody."""
    odd = [each for each in message if not (each.isprintable() or each in "\n\t")]
    assert not odd, f"holds what is no text, or moves a terminal: {message!r:.300}"
    assert len(message) <= MAX_MESSAGE_CHARS, f"{len(message)} characters: {message[:300]} … {message[-100:]}"
    pieces = {SECRET[start : start + _PIECE] for start in range(len(SECRET) - _PIECE + 1)}
    assert not any(piece in message for piece in pieces), f"shows a secret: {message}"


def _batch(cases: SearchStrategy[Case], tried: Callable[[Case], None], examples: int) -> Callable[[], None]:
    @settings(
        max_examples=examples,
        deadline=None,
        report_multiple_bugs=False,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,  # the note says it, and cut
    )
    @given(cases)
    def batch(case: Case) -> None:
        tried(case)

    return batch
