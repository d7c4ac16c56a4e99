"""The three HTTP services in this process, without a network: their own apps, on fakes of what stands behind them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import stamina
from fastapi import FastAPI

from services.inspector.app import build_app as inspector_app
from services.inspector.ingest import Ingest
from services.inspector.store.records import Entry
from services.inspector.store.sealed import SealedBatches
from services.inspector.store.store import Store
from services.student.app import build_app as student_app
from shared.contracts.heartbeats import Heartbeat
from shared.http.access import Limits
from tests.fakes.broker import BrokerBench
from tests.fakes.broker_api import broker_app
from tests.fakes.student import StudentBench
from tests.fakes.waiting import WAIT_S
from tests.unit.inspector.told import RUN, EventLog, StillClock, config, feedback

LIMITS = Limits(max_body_bytes=10_000, requests_per_minute=1_000_000, concurrent_requests=100)


@contextmanager
def student(tmp_path: Path) -> Iterator[FastAPI]:
    bench = StudentBench(tmp_path, "serving.request_timeout_s=2.0")
    bench.turn()
    thread = threading.Thread(target=bench.worker.run)
    thread.start()
    try:
        yield student_app(bench.config, bench.board, bench.interactive, bench.clock)
    finally:
        bench.stopping.set()
        thread.join(WAIT_S)
        bench.close()


@contextmanager
def broker(tmp_path: Path) -> Iterator[FastAPI]:
    """No student is up, and nobody waits for the heartbeat of one."""
    bench = BrokerBench(tmp_path)
    with stamina.set_testing(True):
        yield broker_app(bench, peers_key="secret", limits=LIMITS)


@contextmanager
def inspector(tmp_path: Path, key: str | None = None, broker_url: str | None = None) -> Iterator[FastAPI]:
    """broker_url: where a broker says that it is."""
    store = Store(tmp_path / "log.sqlite3", RUN)
    sealed = SealedBatches(tmp_path, RUN)
    ingest = Ingest(EventLog(), store, sealed, name="inspector/0", clock=StillClock(), silent_s=30.0, block_s=0.0)
    store.append([Entry(f"{number}-0", feedback(f"p{number}")) for number in range(1, 4)], "3-0")
    bus = EventLog()
    if broker_url is not None:
        bus.up.append(Heartbeat(service="broker", replica="0", state="ready", url=broker_url, at=1.0))
    yield inspector_app(config(tmp_path, key, limits=LIMITS), store, ingest, bus, threading.Event())
    store.close()


SERVICES = {"student": student, "broker": broker, "inspector": inspector}
