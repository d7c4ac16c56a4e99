import re
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from services.inspector.store.database import set_aside
from services.inspector.store.filters import ExchangeFilter
from services.inspector.store.log import _SINCE_STEP
from services.inspector.store.records import Entry, Gap, StoredExchange, told
from services.inspector.store.schema import REINDEXED_VERSIONS, TABLES
from services.inspector.store.store import Store, store_or_new
from shared.errors import ConfigError, StorageError
from tests.unit.inspector.told import RUN, feedback, revised, status

ALL = ExchangeFilter()


def ids(store: Store, wanted: ExchangeFilter = ALL) -> list[str]:
    return [exchange.problem_id for exchange in store.newest_exchanges(wanted, before=None, limit=50)]


def whole(**changes: object) -> StoredExchange:
    return StoredExchange(**(vars(told(feedback())) | {"sealed": True, "response": "whole"} | changes))


def test_an_exchange_is_kept_with_all_it_said(store: Store) -> None:
    store.append([Entry("5-0", feedback(removed=("boxed letter", "a\nb"), cut=True))], "5-0")
    [exchange] = store.newest_exchanges(ALL, before=None, limit=10)
    assert (exchange.run, exchange.student, exchange.tutor, exchange.version) == (RUN, "a", "b", "a@v0")
    assert (exchange.verdict, exchange.word, exchange.correct, exchange.cut) == ("match", "force", False, True)
    assert exchange.removed == ("boxed letter", "a\nb")
    assert exchange.revision is None
    assert store.exchange(exchange.id) == exchange


def test_verdicts_are_counted_without_reading_a_text(store: Store) -> None:
    """The page of a run asks for them every few seconds, and a run may have gigabytes of texts."""
    plan = store._database.read(
        "EXPLAIN QUERY PLAN SELECT student, step, verdict, COUNT(*) AS count FROM exchanges "
        "GROUP BY student, step, verdict ORDER BY student, step, verdict"
    )
    assert [row["detail"] for row in plan] == ["SCAN exchanges USING COVERING INDEX exchanges_told"]


def test_no_two_indexes_have_one_name() -> None:
    """The second would not be made, and nothing would say so."""
    names = re.findall(r"CREATE (?:UNIQUE )?INDEX IF NOT EXISTS (\w+)", TABLES)
    assert len(names) > 3 and len(set(names)) == len(names)


def test_exchanges_of_one_verdict_are_found_by_it(store: Store) -> None:
    plan = store._database.read("EXPLAIN QUERY PLAN SELECT id FROM exchanges WHERE verdict = 'match' ORDER BY id DESC")
    assert [row["detail"] for row in plan] == ["SEARCH exchanges USING COVERING INDEX exchanges_verdict (verdict=?)"]


def test_what_tells_of_the_newest_steps_is_read_from_there_on(store: Store) -> None:
    """The page of a run asks for it every few seconds, and a run may have a million events."""
    plan = [row["detail"] for row in store._database.read(f"EXPLAIN QUERY PLAN {_SINCE_STEP}", {"count": 6})]
    assert plan[0] == "SEARCH events USING INTEGER PRIMARY KEY (rowid>?)"


def test_an_event_is_stored_once_by_its_id(store: Store) -> None:
    entries = [Entry("5-0", status(1)), Entry("5-1", feedback())]
    assert store.append(entries, "5-1") == 0
    assert store.append([*entries, Entry("6-0", status(2))], "6-0") == 2
    assert [row.id for row in store.events_after(0, 10)] == ["5-0", "5-1", "6-0"]
    assert len(ids(store)) == 1


def test_an_exchange_is_stored_once_by_its_key_and_the_later_telling_counts(store: Store) -> None:
    store.append([Entry("5-0", feedback(response="first"))], "5-0")
    store.append([Entry("6-0", feedback(response="second"))], "6-0")
    [exchange] = store.newest_exchanges(ALL, before=None, limit=10)
    assert exchange.response == "second"


def test_a_sealed_exchange_is_never_overwritten(store: Store) -> None:
    store.append([Entry("5-0", status(), (whole(),))], "5-0")
    store.append([Entry("6-0", feedback(response="cut", cut=True))], "6-0")
    [exchange] = store.newest_exchanges(ALL, before=None, limit=10)
    assert (exchange.response, exchange.cut, exchange.sealed) == ("whole", False, True)


def test_search_follows_an_overwritten_text(store: Store) -> None:
    store.append([Entry("5-0", feedback(response="pendulum"))], "5-0")
    store.append([Entry("6-0", status(), (whole(response="oscillator"),))], "6-0")
    assert ids(store, ExchangeFilter(q="pendulum")) == []
    assert ids(store, ExchangeFilter(q="oscillator")) == ["p1"]


def test_search_follows_an_overwritten_text_without_blanks(store: Store) -> None:
    store.append([Entry("5-0", feedback(response="加速度为零"))], "5-0")
    store.append([Entry("6-0", status(), (whole(response="the mass"),))], "6-0")
    store.append([Entry("7-0", feedback("p2", response="the speed"))], "7-0")
    store.append([Entry("8-0", status(), (whole(problem_id="p2", response="牛顿定律"),))], "8-0")
    assert ids(store, ExchangeFilter(q="加速度")) == []
    assert ids(store, ExchangeFilter(q="mass")) == ["p1"]
    assert ids(store, ExchangeFilter(q="牛顿定")) == ["p2"]
    assert ids(store, ExchangeFilter(q="speed")) == []


OLD_INDEX = """
DROP TRIGGER exchange_inserted; DROP TRIGGER exchange_updated; DROP TABLE exchange_texts; DROP TABLE exchange_grams;
CREATE VIRTUAL TABLE exchange_texts USING fts5 (
    question, response, raw, content = 'exchanges', content_rowid = 'id'
);
CREATE TRIGGER exchange_inserted AFTER INSERT ON exchanges BEGIN
    INSERT INTO exchange_texts (rowid, question, response, raw)
    VALUES (new.id, new.question, new.response, new.raw);
END;
CREATE TRIGGER exchange_updated AFTER UPDATE OF question, response, raw ON exchanges BEGIN
    INSERT INTO exchange_texts (exchange_texts, rowid, question, response, raw)
    VALUES ('delete', old.id, old.question, old.response, old.raw);
    INSERT INTO exchange_texts (rowid, question, response, raw)
    VALUES (new.id, new.question, new.response, new.raw);
END;
"""


@pytest.mark.parametrize("version", REINDEXED_VERSIONS)
def test_a_store_of_the_schema_before_is_indexed_anew_and_goes_on(tmp_path: Path, version: str) -> None:
    path = tmp_path / "log.sqlite3"
    Store(path, RUN).close()
    connection = sqlite3.connect(path)
    connection.executescript(OLD_INDEX)
    connection.execute("UPDATE meta SET value = ? WHERE name = 'schema'", (version,))
    connection.commit()
    connection.close()
    old = sqlite3.connect(path)
    columns = [row[1] for row in old.execute("PRAGMA table_info(exchanges)") if row[1] != "id"]
    values = vars(told(feedback(response="加速度为零", raw="see प्रतिरोध"))) | {"run": RUN, "removed": "[]"}
    with old:
        named = ", ".join(columns)
        old.execute(
            f"INSERT INTO exchanges ({named}) VALUES ({', '.join('?' for _ in columns)})", [values[c] for c in columns]
        )
    old.close()
    store = Store(path, RUN)
    for q in ("加速度", "प्रतिरोध", "see"):
        assert ids(store, ExchangeFilter(q=q)) == ["p1"]
    store.append([Entry("6-0", status(), (whole(response="动能守恒"),))], "6-0")
    assert ids(store, ExchangeFilter(q="加速度")) == []
    assert ids(store, ExchangeFilter(q="动能守恒")) == ["p1"]
    [made] = store._database.read("SELECT sql FROM sqlite_master WHERE name = 'exchange_texts'")
    assert "prefix = '1'" in made["sql"], "what a letter finds is in the index as such"
    store.close()
    Store(path, RUN).close()


@pytest.mark.parametrize("version", ["1", "5"])
def test_a_store_of_another_schema_is_left_alone(tmp_path: Path, version: str) -> None:
    path = tmp_path / "log.sqlite3"
    Store(path, RUN).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE meta SET value = ? WHERE name = 'schema'", (version,))
    connection.close()
    with pytest.raises(ConfigError, match=f"expected a store with schema '4', got '{version}'; move the file away"):
        Store(path, RUN)


@pytest.mark.parametrize("order", ["revision first", "feedback first"])
def test_a_revision_joins_its_exchange_in_either_order(store: Store, order: str) -> None:
    entries = [Entry("5-0", feedback()), Entry("6-0", revised())]
    if order == "revision first":
        entries = [Entry("5-0", revised()), Entry("6-0", feedback())]
    store.append(entries, "6-0")
    [exchange] = store.newest_exchanges(ALL, before=None, limit=10)
    assert exchange.revision is not None
    assert (exchange.revision.change, exchange.revision.after) == ("fixed", True)


def test_rows_and_cursor_move_together_or_not_at_all(store: Store) -> None:
    store.append([Entry("5-0", feedback())], "5-0")
    with pytest.raises(ValueError, match="expected a stream id"):
        store.append([Entry("6-0", feedback("p2")), Entry("nonsense", status())], "7-0")
    assert (store.cursor, store.head, ids(store)) == ("5-0", 1, ["p1"])
    store.append([Entry("6-0", feedback("p2"))], "6-0")
    assert (store.cursor, ids(store)) == ("6-0", ["p2", "p1"])


KILLED_IN_THE_MIDDLE = """
import os, signal, sys
from pathlib import Path
from services.inspector.store.records import Entry
from services.inspector.store.store import Store
from tests.unit.inspector.told import RUN, feedback

class Entries(list):
    def __iter__(self):
        yield from list.__iter__(self)
        os.kill(os.getpid(), signal.SIGKILL)

store = Store(Path(sys.argv[1]), RUN)
store.append([Entry("5-0", feedback("p1"))], "5-0")
store.append(Entries([Entry("6-0", feedback("p2"))]), "6-0")
"""


def test_a_kill_inside_an_append_leaves_nothing_of_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED_IN_THE_MIDDLE, str(tmp_path / "log")]
    assert subprocess.run(command, timeout=60, check=False).returncode == -signal.SIGKILL
    store = Store(tmp_path / "log", RUN)
    assert (store.cursor, store.head, ids(store)) == ("5-0", 1, ["p1"])
    assert store.append([Entry("6-0", feedback("p2"))], "6-0") == 0
    assert ids(store) == ["p2", "p1"]
    store.close()


def test_a_store_goes_on_where_it_ended(store: Store, tmp_path: Path) -> None:
    store.append([Entry("5-0", status())], "5-0")
    again = Store(tmp_path / "inspector" / "log.sqlite3", RUN)
    assert (again.cursor, again.head) == ("5-0", 1)
    again.close()


def test_a_store_of_another_run_is_refused(tmp_path: Path) -> None:
    Store(tmp_path / "log", RUN).close()
    with pytest.raises(ConfigError, match="expected a store with run 'other', got 'r1'"):
        Store(tmp_path / "log", "other")


def test_a_file_that_is_no_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("no database at all, but long enough to have a header of its own" * 20)
    with pytest.raises(StorageError, match="cannot open the inspector's store"):
        Store(tmp_path / "log", RUN)


@pytest.mark.parametrize("damage", [b"no database at all" * 300, b"\0" * 4096])
def test_a_damaged_store_is_set_aside_and_a_new_one_begins(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "log.sqlite3"
    Store(path, RUN).close()
    path.write_bytes(damage + path.read_bytes()[len(damage) :])
    broken = path.read_bytes()
    store = store_or_new(path, RUN, 12.0)
    store.append([Entry("5-0", status())], "5-0")
    store.close()
    assert path.with_name("log.sqlite3.broken-12").read_bytes() == broken
    again = store_or_new(path, RUN, 13.0)
    again.close()
    assert (again.head, len(list(tmp_path.glob("*.broken-*")))) == (1, 1)


def test_what_is_set_aside_leaves_no_log_to_the_next(tmp_path: Path) -> None:
    for name in ("log", "log-wal", "log-shm", "other"):
        (tmp_path / name).touch()
    assert set_aside(tmp_path / "log", 12.4) == tmp_path / "log.broken-12"
    assert sorted(found.name for found in tmp_path.iterdir()) == [
        "log.broken-12",
        "log.broken-12-shm",
        "log.broken-12-wal",
        "other",
    ]


def test_a_store_that_is_another_runs_is_no_damaged_one(tmp_path: Path) -> None:
    Store(tmp_path / "log", RUN).close()
    with pytest.raises(ConfigError):
        store_or_new(tmp_path / "log", "other", 12.0)


@pytest.mark.parametrize(
    ("seen", "position"),
    [
        ("0", 0),
        ("4-9", 0),
        ("5-0.gap", 0),
        ("5-0", 1),
        ("6", 1),
        ("7-0.gap", 2),
        ("7-0", 3),
        ("9-0.gap", 3),
        ("9999-0", 3),
    ],
)
def test_a_position_is_that_of_the_event_or_of_the_one_before(store: Store, seen: str, position: int) -> None:
    gap = Gap(at=1.0, source="inspector/0", after="5-0", before="7-0", reason="trimmed")
    store.append([Entry("5-0", status()), Entry("7-0.gap", gap), Entry("7-0", status())], "7-0")
    assert store.position_of(seen) == position


def test_a_store_that_another_process_holds_is_not_writable(tmp_path: Path) -> None:
    held = Store(tmp_path / "log", RUN, busy_s=0.05)
    held.check_writable()
    with sqlite3.connect(tmp_path / "log", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match="locked"):
            held.check_writable()
        other.execute("ROLLBACK")
    held.check_writable()
    other.close()
    held.close()
