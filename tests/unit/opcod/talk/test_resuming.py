"""Going on with a paused run, against a broker's own API over HTTP."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from opcod.local.deployment import Deployment, Endpoint, ensure_key
from opcod.talk.client import end_pause
from shared.bus.keys import RESULTS
from shared.config.loading import to_toml
from shared.contracts.acting import Control
from shared.http.access import read_keys
from tests.fakes.broker import RUN, BrokerBench
from tests.fakes.broker_api import broker_app
from tests.fakes.listening import listening
from tests.fakes.threads import in_thread
from tests.fakes.waiting import WAIT_S


@pytest.fixture
def bench(tmp_path: Path) -> BrokerBench:
    return BrokerBench(tmp_path / RUN)


@pytest.fixture
def deployment(bench: BrokerBench) -> Iterator[Deployment]:
    """The broker's API on a free port, its loop in a thread."""
    (bench.run_dir / "config.toml").write_text(to_toml(bench.settings))
    keys = read_keys(ensure_key(bench.run_dir))
    app = broker_app(bench, keys=keys, peers_key=keys.strongest)
    with in_thread(lambda stopping: bench.runner.loop(stopping, threading.Event())), listening(app) as url:
        broker = Endpoint(name="broker", url=url)
        key_file = bench.run_dir / "key"
        yield Deployment(
            run=RUN, run_dir=bench.run_dir, mode="run", key_file=key_file, redis_url="redis://x", broker=broker
        )


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
