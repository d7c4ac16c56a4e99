import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from services.inspector.ingest import Ingest
from services.inspector.store.database import DamagedStoreError
from services.inspector.store.filters import ExchangeFilter
from services.inspector.store.records import LOGGED_EVENT, Gap
from services.inspector.store.sealed import SealedBatches
from services.inspector.store.store import Store
from shared.errors import UnavailableError
from tests.fakes.threads import in_thread
from tests.fakes.waiting import wait_until
from tests.unit.inspector.told import RUN, EventLog, StillClock, feedback, ready, seal, status


def ids(store: Store) -> list[str]:
    return [row.id for row in store.events_after(0, 1000)]


def gaps(store: Store) -> list[Gap]:
    events = [LOGGED_EVENT.validate_json(row.body) for row in store.events_after(0, 1000) if row.kind == "gap"]
    return [event for event in events if isinstance(event, Gap)]


def test_events_are_read_in_order_and_once(ingest: Ingest, log: EventLog, store: Store) -> None:
    log.fill(3)
    ingest.pull()
    ingest.pull()
    log.fill(1, start=4)
    ingest.pull()
    assert ids(store) == ["1-0", "2-0", "3-0", "4-0"]
    assert store.cursor == "4-0"


def test_a_store_that_begins_late_begins_with_a_gap(ingest: Ingest, log: EventLog, store: Store) -> None:
    log.fill(2, start=5)
    log.trimmed = True
    ingest.pull()
    assert ids(store) == ["5-0.gap", "5-0", "6-0"]
    [gap] = gaps(store)
    assert (gap.after, gap.before, gap.reason) == ("0", "5-0", "trimmed")


def test_a_trimmed_stretch_is_a_gap_in_front_of_what_is_left(ingest: Ingest, log: EventLog, store: Store) -> None:
    log.fill(2)
    ingest.pull()
    log.fill(5, start=3)
    del log.entries[:4]
    ingest.pull()
    assert ids(store) == ["1-0", "2-0", "5-0.gap", "5-0", "6-0", "7-0"]
    [gap] = gaps(store)
    assert (gap.after, gap.before, gap.reason) == ("2-0", "5-0", "trimmed")


def test_trimming_behind_the_cursor_is_no_gap(ingest: Ingest, log: EventLog, store: Store) -> None:
    log.fill(4)
    ingest.pull()
    log.fill(1, start=5)
    del log.entries[:3]
    ingest.pull()
    assert gaps(store) == []


def test_a_server_back_without_its_data_is_read_on_with_a_gap(ingest: Ingest, log: EventLog, store: Store) -> None:
    log.fill(3)
    ingest.pull()
    log.entries.clear()
    ingest.pull()
    assert (store.cursor, gaps(store)) == ("3-0", [])
    log.fill(2, start=10)
    ingest.pull()
    assert ids(store)[3:] == ["10-0.gap", "10-0", "11-0"]


def test_a_stream_that_began_anew_with_smaller_ids_is_read_from_its_start(
    ingest: Ingest, log: EventLog, store: Store
) -> None:
    log.fill(2, start=100)
    ingest.pull()
    log.entries.clear()
    log.fill(3, start=50)
    ingest.pull()
    ingest.pull()
    assert ids(store) == ["100-0", "101-0", "50-0.gap", "50-0", "51-0", "52-0"]
    assert [gap.reason for gap in gaps(store)] == ["restarted"]
    assert store.cursor == "52-0"


def test_a_server_that_is_away_is_a_problem_until_it_is_back(ingest: Ingest, log: EventLog, store: Store) -> None:
    log.away = True
    with pytest.raises(UnavailableError):
        ingest.pull()
    with in_thread(ingest.run):
        wait_until(lambda: ingest.problem() == "redis at redis://gone did not answer", "the problem")
        log.fill(3)
        log.away = False
        wait_until(lambda: ingest.problem() is None and store.cursor == "3-0", "the events behind it")


def test_a_store_that_is_damaged_ends_it(log: EventLog, clock: StillClock, tmp_path: Path) -> None:
    """The next start begins a new one; a disk that is full is waited for."""
    path = tmp_path / "log.sqlite3"
    Store(path, RUN).close()
    with closing(sqlite3.connect(path)) as connection:
        [[page]] = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'events_order'")
        [[size]] = connection.execute("PRAGMA page_size")
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(bytes(size))
    log.fill(3)
    with closing(Store(path, RUN)) as store, pytest.raises(DamagedStoreError, match="malformed"):
        sealed = SealedBatches(tmp_path, RUN)
        Ingest(log, store, sealed, name="inspector/0", clock=clock, silent_s=30.0, block_s=0.0).run(threading.Event())


def test_it_is_a_problem_not_to_have_read_yet_and_not_to_answer(ingest: Ingest, clock: StillClock) -> None:
    assert ingest.problem() == "the event stream was not read yet"
    clock.now_s += 31
    assert ingest.problem() == "ingest has not answered for 31 s, expected at most 30 s"


def test_a_sealed_batch_makes_its_exchanges_whole(ingest: Ingest, log: EventLog, store: Store, tmp_path: Path) -> None:
    log.add("1-0", feedback(response="whole re", raw="raw,", question="whole q", cut=True))
    ingest.pull()
    seal(tmp_path)
    log.add("2-0", ready())
    ingest.pull()
    [exchange] = store.newest_exchanges(ExchangeFilter(q="response"), before=None, limit=10)
    assert (exchange.response, exchange.raw, exchange.question) == (
        "whole response",
        "raw, whole",
        "whole question",
    )
    assert (exchange.cut, exchange.sealed, exchange.verdict, exchange.at) == (False, True, "no_match", 1.5)


def test_a_sealed_batch_brings_exchanges_whose_events_were_missed(
    ingest: Ingest, log: EventLog, store: Store, tmp_path: Path
) -> None:
    seal(tmp_path)
    log.add("2-0", ready())
    ingest.pull()
    [exchange] = store.newest_exchanges(ExchangeFilter(), before=None, limit=10)
    assert (exchange.problem_id, exchange.sample, exchange.tutor_version) == ("p1", 0, "b@v0")


def test_a_batch_that_cannot_be_read_leaves_the_exchange_cut(ingest: Ingest, log: EventLog, store: Store) -> None:
    log.add("1-0", feedback(cut=True))
    log.add("2-0", ready())
    log.add("3-0", status())
    ingest.pull()
    [exchange] = store.newest_exchanges(ExchangeFilter(), before=None, limit=10)
    assert (exchange.cut, store.cursor) == (True, "3-0")


def test_ten_thousand_events_come_in(ingest: Ingest, log: EventLog, store: Store) -> None:
    for number in range(1, 10_001):
        event = feedback(f"p{number % 50}", number % 8, step=number // 400) if number % 2 else status(number)
        log.add(f"{number}-0", event)
    while store.cursor != "10000-0":
        ingest.pull()
    assert store.head == 10_000
    assert len(store.events_after(9_990, 100)) == 10
