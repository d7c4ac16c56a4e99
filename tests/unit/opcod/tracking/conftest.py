"""A run's log, for everything that follows one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from opcod.talk.exchanges import StoredExchanges
from services.inspector.store.records import Entry
from services.inspector.store.store import Store
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


@pytest.fixture(scope="module")
def told(log: list[Event], run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoredExchanges]:
    """The exchanges as an inspector keeps them of the log alone."""
    store = Store(tmp_path_factory.mktemp("store") / "log.sqlite3", RUN)
    for number, event in enumerate(log, start=1):
        store.append([Entry(f"{number}-0", event)], f"{number}-0")
    yield StoredExchanges(store, run_dir)
    store.close()
