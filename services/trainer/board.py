"""What a trainer says of itself: on /readyz, and every few seconds as a heartbeat on the bus."""

import threading
from dataclasses import dataclass
from pathlib import Path

import structlog

from shared.bus.port import Bus
from shared.clock import Clock
from shared.contracts.heartbeats import Heartbeat
from shared.errors import UnavailableError

MISSED_BEATS = 3
READY_STATES = ("ready", "training")

log = structlog.get_logger()


@dataclass
class Board:
    """Written by the trainer's thread, read by others. `version` is what the last applied step made."""

    state: str = "starting"
    version: str | None = None

    def problem(self) -> str | None:
        """Why it is not ready, or None."""
        return None if self.state in READY_STATES else self.state


class Presence:
    """A heartbeat every `heartbeat_s`, gone when MISSED_BEATS of them are missed."""

    def __init__(
        self,
        bus: Bus,
        board: Board,
        clock: Clock,
        *,
        student: str,
        replica: str,
        heartbeat_s: float,
        url_file: Path | None,
    ) -> None:
        self._bus = bus
        self._board = board
        self._clock = clock
        self._service = f"trainer-{student}"
        self._replica = replica
        self._heartbeat_s = heartbeat_s
        self._url_file = url_file

    def run(self, stopping: threading.Event) -> None:
        """Beat until `stopping`; a server that is away misses a beat, no more."""
        while not stopping.is_set():
            try:
                self._bus.beat(self.heartbeat(), ttl_s=MISSED_BEATS * self._heartbeat_s)
            except UnavailableError as error:
                log.warning("heartbeat missed", error=str(error))
            stopping.wait(self._heartbeat_s)

    def heartbeat(self) -> Heartbeat:
        return Heartbeat(
            service=self._service,
            replica=self._replica,
            state=self._board.state,
            url=self._url(),
            version=self._board.version,
            at=self._clock.wall_s(),
        )

    def _url(self) -> str | None:
        """Known once the server listens and has written it down."""
        if self._url_file is None or not self._url_file.exists():
            return None
        return self._url_file.read_text() or None
