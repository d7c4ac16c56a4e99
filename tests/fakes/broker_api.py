"""The broker's HTTP side around a bench, without its process."""

from collections.abc import Callable

from fastapi import FastAPI

from services.broker.http.peers import Peers
from services.broker.http.runs import acting_routes, add_routes
from shared.contracts.run import RunState
from shared.http.access import AccessKeys, Limits
from shared.http.app import create_app
from shared.http.remote import RemoteCalls
from tests.fakes.access import PLENTY
from tests.fakes.broker import BrokerBench


def broker_app(
    bench: BrokerBench,
    *,
    keys: AccessKeys | None = None,
    peers_key: str | None = None,
    limits: Limits = PLENTY,
    state: Callable[[], RunState] | None = None,
    train: bool = True,
) -> FastAPI:
    """All routes. peers_key: what it shows the students; state: another than the bench's."""
    told = state or (lambda: bench.state)
    calls = RemoteCalls(bench.settings.bus.deadline_s)
    app = create_app("broker", ready=lambda: None, keys=keys, limits=limits)
    add_routes(
        app,
        settings=bench.settings,
        state=told,
        bus=bench.workers,
        peers=Peers(bench.settings, bench.workers, told, calls, key=peers_key),
        calls=calls,
        format_=bench.problems.format,
        train=train,
    )
    app.include_router(acting_routes(told, bench.plan, bench.workers, calls, bench.run_dir, train=train))
    return app
