"""A scripted run on a real Redis with its broker's and inspector's HTTP sides, at a point where acting matters."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from opcod.local.deployment import KEY_FILE, Deployment, Endpoint
from services.broker.http.runs import acting_routes
from services.inspector.app import build_app
from services.inspector.config import STORE
from services.inspector.ingest import Ingest
from services.inspector.store.sealed import SealedBatches
from services.inspector.store.store import Store
from shared.bus.keys import STUDENTS, jobs
from shared.bus.redis import RedisBus
from shared.clock import SystemClock
from shared.config.loading import to_toml
from shared.contracts.heartbeats import Heartbeat
from shared.contracts.jobs import JobKind
from shared.http.access import AccessKeys, Scope
from shared.http.app import create_app
from shared.http.remote import RemoteCalls
from tests.fakes.access import PLENTY
from tests.fakes.broker import RUN, BrokerBench
from tests.fakes.listening import listening
from tests.unit.inspector.told import config

KEYS = {"read-key": Scope.READ, "ask-key": Scope.ASK, "admin-key": Scope.ADMIN}


@dataclass
class Stand:
    """A run whose step 1 of student a waits: one of its two groups has feedback, the other has not yet."""

    bench: BrokerBench
    ingest: Ingest
    url: str
    waiting: object

    def see(self) -> None:
        """The inspector reads what there is."""
        self.ingest.pull()

    def get(self, path: str) -> httpx2.Response:
        return httpx2.get(self.url + path, headers=bearer("read-key"), trust_env=False)

    def post(self, path: str, key: str = "admin-key", **body: str) -> httpx2.Response:
        return httpx2.post(self.url + path, json=body, headers=bearer(key), trust_env=False, timeout=20)

    def exchanges(self, query: str = "student=a&step=1") -> list[dict[str, Any]]:
        self.see()
        items: list[dict[str, Any]] = self.get(f"/v1/feedback?{query}").json()["items"]
        return items

    def let_the_other_group_through(self) -> None:
        self.bench.students["b"].held.clear()
        self.bench.students["b"].do(self.waiting)  # type: ignore[arg-type]


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@contextmanager
def standing(run_dir: Path, redis_url: str) -> Iterator[Stand]:
    """Inspector and broker over HTTP with keys, around a run in the directory that is named after it."""
    opened: list[RedisBus] = []

    def open_bus() -> RedisBus:
        opened.append(RedisBus(redis_url, RUN, deadline_s=10.0))
        return opened[-1]

    bench = BrokerBench(run_dir, open_bus=open_bus)
    waiting = hold_one_group(bench)
    keys = AccessKeys(KEYS)
    broker = create_app("broker", ready=lambda: None, keys=keys, limits=PLENTY)
    broker.include_router(
        acting_routes(lambda: bench.state, bench.plan, bench.workers, RemoteCalls(1.0), run_dir, train=True)
    )
    store = Store(run_dir / STORE, RUN)
    sealed = SealedBatches(run_dir, RUN)
    ingest = Ingest(bench.workers, store, sealed, name="inspector/0", clock=SystemClock(), silent_s=30, block_s=0)
    app = build_app(config(run_dir, run=RUN, keys=keys), store, ingest, bench.workers, threading.Event())
    with listening(broker) as broker_url, listening(app) as url:
        bench.workers.beat(Heartbeat(service="broker", replica="0", state="ready", url=broker_url, at=0.0), ttl_s=600)
        deploy(run_dir, redis_url, broker_url, url, bench)
        yield Stand(bench, ingest, url, waiting)
    store.close()
    opened[0].link.client.flushall()
    for bus in opened:
        bus.close()


def deploy(run_dir: Path, redis_url: str, broker_url: str, inspector_url: str, bench: BrokerBench) -> None:
    """What a launcher leaves in the run's directory for the command line."""
    (run_dir / "config.toml").write_text(to_toml(bench.settings))
    (run_dir / KEY_FILE).write_text("".join(f"{scope.word} {key}\n" for key, scope in KEYS.items()))
    Deployment(
        run=RUN,
        run_dir=run_dir,
        mode="run",
        pid=0,
        redis_url=redis_url,
        key_file=run_dir / KEY_FILE,
        broker=Endpoint(name="broker", url=broker_url),
        inspector=Endpoint(name="inspector", url=inspector_url),
    ).save()


def hold_one_group(bench: BrokerBench) -> object:
    """Let tutor b answer one of the two jobs on student a's first step; the other stays in its hands."""
    tutor = bench.students["b"]
    tutor.held = {JobKind.FEEDBACK}
    queue = (jobs("b", JobKind.FEEDBACK), STUDENTS)
    bench.run(lambda _: bench.workers.queue_depth(*queue)[0] == 2)
    first, second = bench.workers.take([queue], "student-b", limit=2, block_s=0)
    tutor.do(first)
    bench.turn()
    return second
