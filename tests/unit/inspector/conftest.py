import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from services.inspector.app import build_app
from services.inspector.ingest import Ingest
from services.inspector.store.sealed import SealedBatches
from services.inspector.store.store import Store
from tests.fakes.access import LOCAL
from tests.unit.inspector.told import RUN, EventLog, StillClock, config


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "inspector" / "log.sqlite3", RUN)
    yield opened
    opened.close()


@pytest.fixture
def log() -> EventLog:
    return EventLog()


@pytest.fixture
def clock() -> StillClock:
    return StillClock()


@pytest.fixture
def ingest(log: EventLog, store: Store, clock: StillClock, tmp_path: Path) -> Ingest:
    sealed = SealedBatches(tmp_path, RUN)
    return Ingest(log, store, sealed, name="inspector/0", clock=clock, silent_s=30.0, block_s=0.0)


@pytest.fixture
def client(store: Store, ingest: Ingest, log: EventLog, tmp_path: Path) -> Iterator[TestClient]:
    with TestClient(build_app(config(tmp_path), store, ingest, log, threading.Event()), base_url=LOCAL) as opened:
        yield opened
