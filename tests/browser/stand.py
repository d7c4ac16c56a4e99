"""The inspector as a real server, with a store that a test fills by hand or from a scripted run that is done."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from services.inspector.app import build_app
from services.inspector.config import InspectorConfig
from services.inspector.ingest import Ingest
from services.inspector.store.sealed import SealedBatches
from services.inspector.store.store import Store
from shared.clock import SystemClock
from shared.contracts.events import Event
from shared.http.access import Limits
from tests.fakes.listening import listening
from tests.unit.inspector.told import EventLog, config

LIMITS = Limits(max_body_bytes=100_000, requests_per_minute=100_000, concurrent_requests=1000)


@dataclass
class Stand:
    """One inspector; `tell` is what happens in its run. It may be stopped, and started again at the same address."""

    config: InspectorConfig
    store: Store
    log: EventLog
    url: str = ""
    told: int = 0
    _stopping: threading.Event = field(default_factory=threading.Event)
    _server: ExitStack = field(default_factory=ExitStack)

    def tell(self, *events: Event) -> None:
        for event in events:
            self.told += 1
            self.log.add(f"{self.told}-0", event)
        self._ingest(self.log).pull()

    @contextmanager
    def serving(self) -> Iterator["Stand"]:
        """At a free port, later at the same again."""
        self._stopping = threading.Event()
        app = build_app(self.config, self.store, self._ingest(self.log), self.log, self._stopping)
        port = int(self.url.rpartition(":")[2]) if self.url else 0
        with ExitStack() as server:
            self.url = server.enter_context(listening(app, port))
            self._server = server
            try:
                yield self
            finally:
                self._stopping.set()

    def stop(self) -> None:
        """The server is gone, with all its connections."""
        self._stopping.set()
        self._server.close()

    def _ingest(self, source: EventLog) -> Ingest:
        sealed = SealedBatches(self.config.environment.run_dir, self.config.environment.run)
        return Ingest(source, self.store, sealed, name="inspector/0", clock=SystemClock(), silent_s=60, block_s=0)


@contextmanager
def new_stand(run_dir: Path, **changes: object) -> Iterator[Stand]:
    """Nothing is served yet."""
    told = config(run_dir, limits=LIMITS, **changes)  # type: ignore[arg-type]
    store = Store(told.store_path, told.environment.run)
    try:
        yield Stand(told, store, EventLog())
    finally:
        store.close()
