"""Going on with a paused run, against a broker's own API over HTTP."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn

from opcod.deployment import Deployment, Endpoint, ensure_key
from opcod.resuming import end_pause
from services.broker.api import add_routes
from services.broker.peers import Peers
from shared.access import read_keys
from shared.bus.keys import RESULTS
from shared.contracts.control import Control
from shared.http import create_app
from tests.fakes.access import PLENTY
from tests.fakes.broker import RUN, BrokerBench

WAIT_S = 10.0


@pytest.fixture
def bench(tmp_path: Path) -> BrokerBench:
    return BrokerBench(tmp_path / RUN)


@pytest.fixture
def deployment(bench: BrokerBench) -> Iterator[Deployment]:
    """The broker's API on a free port, its loop in a thread."""
    keys = read_keys(ensure_key(bench.run_dir))
    app = create_app("broker", ready=lambda: None, keys=keys, limits=PLENTY)
    peers = Peers(bench.settings, bench.workers, lambda: bench.state, key=keys.strongest)
    add_routes(
        app,
        settings=bench.settings,
        state=lambda: bench.state,
        bus=bench.workers,
        peers=peers,
        format_=bench.problems.format,
        train=True,
    )
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None))
    stopping = threading.Event()
    threads = [
        threading.Thread(target=server.run, daemon=True),
        threading.Thread(target=bench.runner.loop, args=(stopping, threading.Event()), daemon=True),
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + WAIT_S
    while not server.started:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    broker = Endpoint(name="broker", url=url)
    yield Deployment(run=RUN, run_dir=bench.run_dir, mode="run", pid=1, redis_url="redis://x", broker=broker)
    server.should_exit = True
    stopping.set()
    for thread in threads:
        thread.join(WAIT_S)


def test_a_paused_run_goes_on(bench: BrokerBench, deployment: Deployment) -> None:
    bench.workers.publish(RESULTS, Control(id="1", action="pause", reason="rollouts failed 2 times"))
    deadline = time.monotonic() + WAIT_S
    while bench.state.paused is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert end_pause(deployment) == "rollouts failed 2 times"
    assert bench.state.paused is None


def test_a_run_that_is_not_paused_is_left_alone(bench: BrokerBench, deployment: Deployment) -> None:
    before = bench.state.revision
    assert end_pause(deployment) is None
    assert bench.state.revision == before
