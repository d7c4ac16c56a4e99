"""A run's log, for everything that follows one."""

from pathlib import Path

import pytest

from shared.contracts.events import Event
from tests.fakes.broker import RUN, BrokerBench


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("runs") / RUN
    directory.mkdir()
    return directory


@pytest.fixture(scope="module")
def log(run_dir: Path) -> list[Event]:
    """The events of a run of one round in which both students tutor."""
    bench = BrokerBench(run_dir, overrides=("gate.mode=always", "feedback.revise_share=0.5"))
    bench.finish()
    bench.settle()
    return [event for _, event in bench.workers.read_events("0", count=10_000, block_s=0)]
