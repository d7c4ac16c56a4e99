"""The page put together: its files, its templates, what it reads, and the routes over all of it.

Errors as a page for who reads pages: the same words that the API says in JSON.

What every answer tells a browser: run and load nothing but this service's own files, and be framed by nobody.
"""

import json
import threading
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.inspector.config import InspectorConfig
from services.inspector.http.broker import BrokerClient
from services.inspector.http.stream import Viewers
from services.inspector.run.view import RunBus, RunData
from services.inspector.store.sealed import SealedBatches
from services.inspector.store.store import Store
from services.inspector.store.traces import Traces
from services.inspector.web.assets import Assets, asset_routes
from services.inspector.web.login import login_routes
from services.inspector.web.pages import Site, feedback_routes, run_route, run_routes
from services.inspector.web.rendering import COLOURS, VERDICTS, Pages
from services.inspector.web.writing import writing_routes
from shared.config.settings import RunSettings
from shared.http.guard import is_navigation
from shared.http.remote import RemoteCalls
from shared.http.sessions import Sessions

CONTENT_SECURITY_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    ]
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not no-referrer: a form would then be sent with the origin "null", and be refused as another site's.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

OF_A_BODY = ("content-length", "content-type")


class BrowserHeaders:
    """Pure ASGI, so that streams stay streams."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await self._app(scope, receive, marked)


def show_errors_as_pages(app: FastAPI, pages: Pages) -> None:
    """Wraps the app's handlers of errors; what a script asks for stays JSON."""
    for kind, handler in list(app.exception_handlers.items()):
        app.add_exception_handler(kind, _shown(handler, pages))


def _shown(handler: Any, pages: Pages) -> Any:
    async def shown(request: Request, error: Exception) -> Response:
        answer: Response = await handler(request, error)
        if not is_navigation(request.headers) or request.url.path.startswith("/v1/"):
            return answer
        message = json.loads(bytes(answer.body))["error"]["message"]
        scope = getattr(request.state, "scope", None)
        page = pages.page("error.html", scope=scope, status_code=answer.status_code, message=message)
        # When to come back, what to log in with, that the connection ends: a page says it as JSON does.
        page.headers.update({name: value for name, value in answer.headers.items() if name not in OF_A_BODY})
        return page

    return shown


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
    pages = Pages(assets, run_names(config.environment.run, config.settings, with_keys=config.keys is not None))
    run = RunData(config.environment.run, config.environment.run_dir, config.settings, reads.store, reads.bus)
    site = Site(reads.store, reads.batches, reads.traces, run, broker, calls, pages, viewers, stopping)
    app.include_router(asset_routes(assets))
    app.include_router(login_routes(pages, sessions, config.keys, config.environment.public_url))
    app.include_router(feedback_routes(site))
    app.include_router(run_routes(site))
    app.include_router(writing_routes(site))
    app.include_router(run_route(run, calls))
    app.add_middleware(BrowserHeaders)
    show_errors_as_pages(app, pages)


def run_names(run: str, settings: RunSettings, *, with_keys: bool) -> dict[str, Any]:
    """What every page knows of the run, and what its filters offer."""
    students = {name: settings.students[name].domain for name in settings.names}
    return {
        "run_name": run,
        "students": students,
        "students_order": {name: index % COLOURS for index, name in enumerate(students)},
        "student_options": [(name, name) for name in students],
        "verdict_options": [(word, word.replace("_", " ")) for word in VERDICTS],
        "with_keys": with_keys,
        "untutored": untutored(settings),
    }


def untutored(settings: RunSettings) -> str | None:
    """Why there is no feedback in the run, and none to wait for; None where there may be some."""
    if settings.gate_mode != "never":
        return None
    setting = f"run.method is {settings.run.method}" if settings.run.method != "opcod" else "gate.mode is never"
    return f"Nobody tutors in this run: {setting}."
