"""The inspector put together: bus, store, ingest thread, heartbeat thread and HTTP app.

It only reads the run: it may die at any point without hurting anything, and goes on where its store ends. One that is
damaged is set aside, and filled anew from what the stream still has; what it has no more shows as a gap.
"""

import threading

from fastapi import FastAPI

from services.inspector.config import InspectorConfig, inspector_config
from services.inspector.http.acting import acting_routes
from services.inspector.http.api import inspector_routes
from services.inspector.http.broker import BrokerClient
from services.inspector.http.stream import Viewers
from services.inspector.ingest import Ingest
from services.inspector.run.view import RunBus
from services.inspector.sampling import UsageSampler
from services.inspector.sealing import BatchReader
from services.inspector.store.database import DamagedStoreError, set_aside
from services.inspector.store.sealed import SealedBatches
from services.inspector.store.store import Store, store_or_new
from services.inspector.store.traces import Traces
from services.inspector.tracing import TraceReader
from services.inspector.web.site import Reads, add_site
from shared.bus.redis import RedisBus
from shared.clock import Clock, SystemClock
from shared.config.environment import service_environment
from shared.contracts.heartbeats import Heartbeat
from shared.http.app import create_app
from shared.http.remote import RemoteCalls
from shared.http.serving import Service
from shared.http.sessions import Sessions
from shared.obs.logging import configure_logging
from shared.obs.presence import Presence, own_url

MAX_VIEWERS = 64


def inspector_heartbeat(config: InspectorConfig, ingest: Ingest, clock: Clock) -> Heartbeat:
    """Ready while events come in."""
    return Heartbeat(
        service="inspector",
        replica=config.environment.replica,
        state="ready" if ingest.problem() is None else "starting",
        url=own_url(config.environment.advertised_url, config.environment.url_file),
        at=clock.wall_s(),
    )


def main() -> int:
    """Serve until SIGTERM; returns the exit code."""
    environment = service_environment()
    configure_logging(json=environment.log_json, service="inspector", run=environment.run, replica=environment.replica)
    return serve(inspector_config(environment))


def serve(config: InspectorConfig) -> int:
    clock = SystemClock()
    bus = RedisBus(config.environment.bus_url(), config.environment.run, deadline_s=config.bus_deadline_s)
    store = store_or_new(config.store_path, config.environment.run, clock.wall_s())
    name = f"inspector/{config.environment.replica}"
    sealed = SealedBatches(config.environment.run_dir, config.environment.run)
    ingest = Ingest(bus, store, sealed, name=name, clock=clock, silent_s=config.silent_s)
    presence = Presence(
        bus, lambda: inspector_heartbeat(config, ingest, clock), period_s=config.settings.bus.heartbeat_s
    )
    service = Service("inspector")
    service.spawn("ingest", lambda: ingest.run(service.stopping))
    service.spawn("batches", lambda: BatchReader(store, sealed).run(service.stopping))
    traces = Traces(config.environment.run_dir, config.environment.run)
    service.spawn("traces", lambda: TraceReader(store, traces).run(service.stopping))
    sampler = UsageSampler(bus.heartbeats, store.usage, period_s=config.settings.bus.heartbeat_s)
    service.spawn("usage", lambda: sampler.run(service.stopping))
    service.spawn("heartbeat", lambda: presence.run(service.stopping))
    app = build_app(config, store, ingest, bus, service.stopping)
    try:
        return service.serve(app, host=config.environment.host, port=config.port, url_file=config.environment.url_file)
    finally:
        store.close()
        bus.close()
        if isinstance(service.error, DamagedStoreError):
            set_aside(config.store_path, clock.wall_s())


def build_app(config: InspectorConfig, store: Store, ingest: Ingest, bus: RunBus, stopping: threading.Event) -> FastAPI:
    """Probes, the JSON API and the page; ready = the store takes writes and events come in."""

    def ready() -> str | None:
        if stopping.is_set():
            return "draining"
        return ingest.problem()

    sessions = Sessions(config.environment.run, SystemClock())
    app = create_app(
        "opcod inspector", ready=ready, keys=config.keys, limits=config.settings.serving.limits, sessions=sessions
    )
    viewers, traces = Viewers(MAX_VIEWERS), Traces(config.environment.run_dir, config.environment.run)
    calls = RemoteCalls(config.bus_deadline_s)
    broker = BrokerClient(
        bus.heartbeats, config.keys, calls, answer_timeout_s=config.settings.serving.request_timeout_s
    )
    sealed = SealedBatches(config.environment.run_dir, config.environment.run)
    app.include_router(inspector_routes(store, sealed, traces, stopping=stopping, viewers=viewers))
    app.include_router(acting_routes(store, broker, calls, config.environment.run))
    reads = Reads(store, sealed, traces, bus)
    add_site(app, config, reads, broker, calls, sessions, viewers, stopping)
    return app
