"""This student's heartbeat: where it answers, what it serves and how it is."""

import threading
from pathlib import Path

import structlog

from services.student.board import Board
from services.student.config import StudentConfig
from shared.bus.port import Bus
from shared.clock import Clock
from shared.contracts.heartbeats import Heartbeat
from shared.errors import UnavailableError

MISSED_BEATS = 3

log = structlog.get_logger()


class Presence:
    """One heartbeat every `heartbeat_s`, from a thread of its own; gone when MISSED_BEATS of them are missed."""

    def __init__(self, bus: Bus, config: StudentConfig, board: Board, clock: Clock) -> None:
        self._bus = bus
        self._config = config
        self._board = board
        self._clock = clock

    def run(self, stopping: threading.Event) -> None:
        """Beat until `stopping`, then say once that it drains."""
        while not stopping.is_set():
            self.beat()
            stopping.wait(self._config.bus.heartbeat_s)
        self._board.draining = True
        self.beat()

    def beat(self) -> None:
        """A bus that is away misses a beat, no more."""
        try:
            self._bus.beat(self.heartbeat(), ttl_s=MISSED_BEATS * self._config.bus.heartbeat_s)
        except UnavailableError as error:
            log.warning("heartbeat missed", error=str(error))

    def heartbeat(self) -> Heartbeat:
        serving = self._board.serving
        return Heartbeat(
            service=f"student-{self._config.student}",
            replica=self._config.replica,
            state=self._board.state,
            url=_url(self._config.url_file),
            version=serving.live,
            versions=serving.versions,
            free_slots=self._board.free_slots,
            at=self._clock.wall_s(),
        )


def _url(url_file: Path | None) -> str | None:
    """Where this process listens, known once it has written its own URL down."""
    if url_file is None:
        return None
    try:
        return url_file.read_text() or None
    except OSError:
        return None
