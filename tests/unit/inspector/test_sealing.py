"""Batches that could not be read when their event came: read at a later look, said once, each for itself."""

import threading
from pathlib import Path

import pytest

from services.inspector.ingest import Ingest
from services.inspector.sealing import BatchReader
from services.inspector.store.database import DamagedStoreError
from services.inspector.store.filters import ExchangeFilter
from services.inspector.store.sealed import SealedBatches
from services.inspector.store.store import Store
from services.inspector.store.traces import Traces
from services.inspector.tracing import TraceReader
from tests.unit.inspector.told import RUN, EventLog, feedback, ready, seal


def told(store: Store) -> list[tuple[int, str, bool, float]]:
    found = store.newest_exchanges(ExchangeFilter(), before=None, limit=10)
    return [(exchange.step, exchange.response, exchange.sealed, exchange.at) for exchange in found]


def test_a_batch_that_could_not_be_read_at_once_is_read_when_it_can_be(
    ingest: Ingest, log: EventLog, store: Store, tmp_path: Path
) -> None:
    reader = BatchReader(store, SealedBatches(tmp_path, RUN))
    groups = seal(tmp_path) / "groups.jsonl"
    groups.rename(aside := tmp_path / "away")
    seal(tmp_path, step=2)
    log.add("1-0", feedback(response="whole re", cut=True))
    log.add("2-0", ready())
    log.add("3-0", feedback(response="whole re", step=2, cut=True, at=3.5))  # and its event is missed
    ingest.pull()
    reader.look()
    assert told(store) == [(2, "whole response", True, 3.5), (1, "whole re", False, 1.5)]
    aside.rename(groups)
    reader.look()
    assert told(store)[1] == (1, "whole response", True, 1.5)
    assert store.unsealed_steps() == []


def test_an_exchange_that_its_batch_does_not_have_is_looked_for_once(
    store: Store, ingest: Ingest, log: EventLog, tmp_path: Path
) -> None:
    groups = seal(tmp_path) / "groups.jsonl"
    log.add("1-0", feedback("p2"))
    ingest.pull()
    reader = BatchReader(store, SealedBatches(tmp_path, RUN))
    reader.look()
    assert len(told(store)) == 2
    groups.unlink()
    reader.look()
    assert reader._unreadable == set()


def test_steps_without_a_batch_are_found_without_reading_those_that_have_one(store: Store) -> None:
    plan = store._database.read(
        "EXPLAIN QUERY PLAN SELECT student, step, MAX(at) FROM exchanges WHERE sealed = 0 GROUP BY student, step"
    )
    assert [row["detail"] for row in plan] == ["SCAN exchanges USING INDEX exchanges_unsealed"]


def test_a_damaged_store_ends_who_meets_it(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(_: object) -> None:
        raise DamagedStoreError("database disk image is malformed")

    for reader in (BatchReader(store, SealedBatches(tmp_path, RUN)), TraceReader(store, Traces(tmp_path, RUN))):
        monkeypatch.setattr(type(reader), "look", damaged)
        with pytest.raises(DamagedStoreError):
            reader.run(threading.Event())
