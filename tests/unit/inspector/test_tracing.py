"""The divergence of traced rollouts in the store: as soon as the log goes on, once, whatever one file holds."""

from pathlib import Path

import pytest

from services.inspector.store.filters import ExchangeFilter
from services.inspector.store.records import Entry
from services.inspector.store.sealed import SealedBatches
from services.inspector.store.store import Store
from services.inspector.store.traces import Traces
from services.inspector.tracing import TraceReader
from tests.fakes.traces import write_trace
from tests.unit.inspector.test_web import tell
from tests.unit.inspector.told import RUN, feedback, ready, seal, status


@pytest.fixture
def reader(store: Store, tmp_path: Path) -> TraceReader:
    """Of a run whose first step is sealed."""
    seal(tmp_path)
    store.append([Entry("1-0", ready(), SealedBatches(tmp_path, RUN).exchanges(ready()))], "1-0")
    tell(store, feedback("p2", step=2), start=2)
    return TraceReader(store, Traces(tmp_path, RUN))


def diverging(store: Store, nats: float) -> list[str]:
    found = store.newest_exchanges(ExchangeFilter(min_nats=nats), before=None, limit=9)
    return [exchange.problem_id for exchange in found]


def test_a_step_is_read_when_its_traces_are_there_and_the_log_goes_on(
    reader: TraceReader, store: Store, tmp_path: Path
) -> None:
    reader.look()
    assert store.steps_without_divergence() == [("a", 1), ("a", 2)]
    write_trace(tmp_path)
    tell(store, status(), start=3)
    reader.look()
    assert (diverging(store, 0.3), diverging(store, 0.31)) == (["p1"], [])
    assert store.steps_without_divergence() == [("a", 2)]


def test_a_file_that_cannot_be_read_holds_up_no_other(reader: TraceReader, store: Store, tmp_path: Path) -> None:
    seal(tmp_path, step=2)
    store.append([Entry("3-0", ready(2), SealedBatches(tmp_path, RUN).exchanges(ready(2)))], "3-0")
    broken = write_trace(tmp_path)
    broken.rename(broken.with_name("s00002.json"))
    write_trace(tmp_path)
    reader.look()
    assert diverging(store, 0.3) == ["p1"]
    assert store.steps_without_divergence() == [("a", 2)]
