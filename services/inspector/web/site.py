"""The page put together: its files, its templates, what it reads, and the routes over all of it."""

import threading
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI

from services.inspector.config import InspectorConfig
from services.inspector.http.broker import BrokerClient
from services.inspector.http.stream import Viewers
from services.inspector.run.data import RunBus, RunData
from services.inspector.store.sealed import SealedBatches
from services.inspector.store.store import Store
from services.inspector.store.traces import Traces
from services.inspector.web.assets import Assets, asset_routes
from services.inspector.web.errors import show_errors_as_pages
from services.inspector.web.headers import BrowserHeaders
from services.inspector.web.login import login_routes
from services.inspector.web.pages import Site, page_routes, run_route
from services.inspector.web.rendering import VERDICTS, Pages
from services.inspector.web.writing import writing_routes
from shared.config.settings import RunSettings
from shared.http.remote import RemoteCalls
from shared.http.sessions import Sessions


@dataclass(frozen=True)
class Reads:
    """Where the pages read from."""

    store: Store
    batches: SealedBatches
    traces: Traces
    bus: RunBus


def add_site(
    app: FastAPI,
    config: InspectorConfig,
    reads: Reads,
    broker: BrokerClient,
    calls: RemoteCalls,
    sessions: Sessions,
    viewers: Viewers,
    stopping: threading.Event,
) -> None:
    assets = Assets()
    pages = Pages(assets, run_names(config.run, config.settings, with_keys=config.keys is not None))
    run = RunData(config.run, config.run_dir, config.settings, reads.store, reads.bus)
    site = Site(reads.store, reads.batches, reads.traces, run, broker, calls, pages, viewers, stopping)
    app.include_router(asset_routes(assets))
    app.include_router(login_routes(pages, sessions, config.keys, config.public_url))
    app.include_router(page_routes(site))
    app.include_router(writing_routes(site))
    app.include_router(run_route(run, calls))
    app.add_middleware(BrowserHeaders)
    show_errors_as_pages(app, pages)


def run_names(run: str, settings: RunSettings, *, with_keys: bool) -> dict[str, Any]:
    """What every page knows of the run, and what its filters offer."""
    students = {name: student.domain for name, student in sorted(settings.students.items())}
    domains = list(dict.fromkeys(students.values()))
    return {
        "run_name": run,
        "students": students,
        "students_order": {name: index for index, name in enumerate(students)},
        "domains": domains,
        "student_options": [(name, name) for name in students],
        "domain_options": [(domain, domain) for domain in domains],
        "verdict_options": [(word, word.replace("_", " ")) for word in VERDICTS],
        "with_keys": with_keys,
    }
