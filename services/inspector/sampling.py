"""Keeping what services say of their use of the machine, so that a page can draw it over time, also when it is over."""

import threading
from collections.abc import Callable, Sequence

import structlog

from services.inspector.store.usage import UsageSamples
from shared.contracts.heartbeats import Heartbeat, trains
from shared.errors import StorageError, UnavailableError

log = structlog.get_logger()


class UsageSampler:
    """`run` is its thread. heartbeats: of all that are up; raises UnavailableError. period_s: of a heartbeat."""

    def __init__(
        self, heartbeats: Callable[[], Sequence[Heartbeat]], samples: UsageSamples, *, period_s: float
    ) -> None:
        self._heartbeats = heartbeats
        self._samples = samples
        self._period_s = period_s
        self._seen: dict[tuple[str, str], float] = {}

    def run(self, stopping: threading.Event) -> None:
        while not stopping.is_set():
            try:
                self.look()
            except (UnavailableError, StorageError) as error:
                # The server's or the store's own trouble, which ingest tells; here it is tried again.
                log.warning("use of the machine is not kept", error=str(error))
            stopping.wait(self._period_s)

    def look(self) -> None:
        """Keep every heartbeat that was not seen yet, while a trainer is up: of what only serves a run that is over,
        samples would push out those of its steps. Raises UnavailableError, StorageError."""
        beats = self._heartbeats()
        if not trains(beats):
            return
        self._samples.put([beat for beat in beats if self._seen.get((beat.service, beat.replica)) != beat.at])
        self._seen = {(beat.service, beat.replica): beat.at for beat in beats}
