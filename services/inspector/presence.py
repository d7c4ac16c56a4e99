"""The inspector's heartbeat: what it says of itself on the bus every few seconds."""

import threading
from pathlib import Path
from typing import Protocol

import structlog

from services.inspector.config import InspectorConfig
from services.inspector.ingest import Ingest
from shared.clock import Clock
from shared.contracts.heartbeats import Heartbeat
from shared.errors import UnavailableError

MISSED_BEATS = 3

log = structlog.get_logger()


class HeartbeatSink(Protocol):
    """The part of the bus that takes heartbeats."""

    def beat(self, heartbeat: Heartbeat, *, ttl_s: float) -> None: ...


class Presence:
    """One heartbeat every `heartbeat_s`, gone when MISSED_BEATS of them are missed."""

    def __init__(self, sink: HeartbeatSink, config: InspectorConfig, ingest: Ingest, clock: Clock) -> None:
        self._sink = sink
        self._config = config
        self._ingest = ingest
        self._clock = clock

    def run(self, stopping: threading.Event) -> None:
        """Beat until `stopping`; a server that is away misses a beat, no more."""
        while not stopping.is_set():
            try:
                self._sink.beat(self.heartbeat(), ttl_s=MISSED_BEATS * self._config.heartbeat_s)
            except UnavailableError as error:
                log.warning("heartbeat missed", error=str(error))
            stopping.wait(self._config.heartbeat_s)

    def heartbeat(self) -> Heartbeat:
        return Heartbeat(
            service="inspector",
            replica=self._config.replica,
            state="ready" if self._ingest.problem() is None else "starting",
            url=_url(self._config.url_file),
            at=self._clock.wall_s(),
        )


def _url(url_file: Path | None) -> str | None:
    """Where this service listens, known once it has written its own URL down."""
    if url_file is None:
        return None
    try:
        return url_file.read_text() or None
    except OSError:
        return None
