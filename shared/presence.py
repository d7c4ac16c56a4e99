"""A service's heartbeat on the bus: the same thread in every service, each saying its own words."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import structlog

from shared.contracts.heartbeats import Heartbeat
from shared.errors import OpcodError

MISSED_BEATS = 3

log = structlog.get_logger()


class HeartbeatSink(Protocol):
    """The part of the bus that takes heartbeats."""

    def beat(self, heartbeat: Heartbeat, *, ttl_s: float) -> None: ...


class Presence:
    """One heartbeat every `period_s`; gone when MISSED_BEATS of them are missed."""

    def __init__(self, sink: HeartbeatSink, heartbeat: Callable[[], Heartbeat], *, period_s: float) -> None:
        self._sink = sink
        self._heartbeat = heartbeat
        self._period_s = period_s

    def run(self, stopping: threading.Event) -> None:
        """Beat until `stopping`, and once more then: what the service says may have changed."""
        while not stopping.is_set():
            self.beat()
            stopping.wait(self._period_s)
        self.beat()

    def beat(self) -> None:
        """Whatever the server says costs a beat, no more: work does not hang on being seen."""
        try:
            self._sink.beat(self._heartbeat(), ttl_s=MISSED_BEATS * self._period_s)
        except OpcodError as error:
            log.warning("heartbeat missed", error=str(error))


def own_url(advertised: str | None, url_file: Path | None) -> str | None:
    """Where others reach this process: as it was told, else where it listens, known once it has written that down."""
    if advertised is not None or url_file is None:
        return advertised
    try:
        return url_file.read_text(encoding="utf-8") or None
    except OSError:
        return None
