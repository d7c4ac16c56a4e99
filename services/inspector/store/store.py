"""The inspector's store: the log of events, the exchanges in it, and how far the stream was read.

What always holds: the cursor moves in the same transaction as the rows, so that a killed process neither loses
nor doubles an event; an event is stored once by its stream id, an exchange once by its key; an exchange told by
a sealed batch is never overwritten.
"""

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import structlog

from services.inspector.http.views import ActView, ExchangeView, exchange_view
from services.inspector.store.database import DamagedStoreError, Database, Value, set_aside
from services.inspector.store.filters import (
    EVERY,
    Between,
    Condition,
    ExchangeFilter,
    Order,
    conditions,
    spans,
    where_of,
)
from services.inspector.store.log import RunLog
from services.inspector.store.records import GAP_SUFFIX, START, Entry, StoredExchange, order_of, told
from services.inspector.store.schema import REINDEX, REINDEXED_VERSIONS, SCHEMA_VERSION, SCRIPT
from services.inspector.store.spread import SPREAD, Counted
from services.inspector.store.usage import UsageSamples
from shared.contracts.acting import ExchangeAct
from shared.contracts.events import Acted, FeedbackGiven, Revised
from shared.errors import ConfigError, OpcodError

BUSY_S = 5.0
MAX_GROUP = 1000
"""Rollouts of one problem are some dozens at most; what came broken is cut here."""

_KEY = ("student", "step", "problem_id", "sample")
_COLUMNS = ("run", *(field.name for field in fields(StoredExchange)))
# Not its key, nor when it was told: a batch that is sealed later says the texts anew, not the time.
_UPDATED = [name for name in _COLUMNS if name not in (*_KEY, "run", "at")]
_PUT_EXCHANGE = (
    f"INSERT INTO exchanges ({', '.join(_COLUMNS)}) VALUES ({', '.join(f':{name}' for name in _COLUMNS)}) "
    f"ON CONFLICT ({', '.join(_KEY)}) DO UPDATE SET "
    f"{', '.join(f'{name} = excluded.{name}' for name in _UPDATED)} WHERE exchanges.sealed = 0"
)
_PUT_REVISION = (
    "INSERT INTO revisions (student, step, problem_id, sample, before, after, change, text) "
    "VALUES (:student, :step, :problem_id, :sample, :before, :after, :change, :text) "
    "ON CONFLICT (student, step, problem_id, sample) DO UPDATE SET "
    "before = excluded.before, after = excluded.after, change = excluded.change, text = excluded.text"
)
_PUT_ACT = (
    "INSERT INTO acts (id, at, act, student, step, problem_id, sample, by, reason, refused) "
    "VALUES (:id, :at, :act, :student, :step, :problem_id, :sample, :by, :reason, :refused) "
    "ON CONFLICT (id) DO NOTHING"
)
_ACTS = ", ".join(f"'{name}', acts.{name}" for name in ActView.model_fields)
_SELECT_EXCHANGES = (
    f"SELECT exchanges.*, (SELECT json_group_array(json_object({_ACTS})) FROM acts "
    f"WHERE {' AND '.join(f'acts.{name} = exchanges.{name}' for name in _KEY)}) AS history, "
    "revisions.before AS revision_before, revisions.after AS revision_after, "
    "revisions.change AS revision_change, revisions.text AS revision_text "
    f"FROM exchanges LEFT JOIN revisions USING ({', '.join(_KEY)})"
)

log = structlog.get_logger()


@dataclass(frozen=True)
class LoggedRow:
    """One event of the log; body is its JSON."""

    position: int
    id: str
    kind: str
    body: str


class Store:
    """Opens or creates the store of `run` at `path`; one of an earlier schema is indexed anew where that is all.

    Raises ConfigError if it holds another run, or a schema that is neither.
    """

    def __init__(self, path: Path, run: str, *, busy_s: float = BUSY_S) -> None:
        self._run = run
        self._database = Database(path, SCRIPT, busy_s=busy_s)
        self.log = RunLog(self._database)
        self.usage = UsageSamples(self._database)
        try:
            # Before the check of the schema, which it brings up to date.
            if self._meta("schema") in REINDEXED_VERSIONS:
                self._reindex()
            self._adopt(path)
            self._cursor = self._meta("cursor") or START
            self._head = int(self._one("SELECT COALESCE(MAX(position), 0) AS found FROM events", ()))
        except OpcodError:
            self.close()
            raise

    @property
    def cursor(self) -> str:
        """Id of the last event that was read from the stream."""
        return self._cursor

    @property
    def head(self) -> int:
        """Position of the newest event; kept in memory, so that a waiting viewer costs no query."""
        return self._head

    def append(self, entries: Sequence[Entry], cursor: str) -> int:
        """Store the entries and move the cursor, together. Returns how many of them were there already."""
        # Redis delivers what was read before a crash again; an id that is here already is left as it is.
        duplicates = 0
        with self._database.transaction() as connection:
            for entry in entries:
                if _put_event(connection, entry):
                    self._put_details(connection, entry)
                else:
                    duplicates += 1
            _put_meta(connection, "cursor", cursor)
            newest = connection.execute("SELECT COALESCE(MAX(position), 0) FROM events").fetchone()[0]
        # Only now: a viewer that sees the new head must find its rows.
        self._cursor, self._head = cursor, newest
        return duplicates

    def check_writable(self) -> None:
        """Raises StorageError if a row cannot be written now."""
        with self._database.transaction() as connection:
            _put_meta(connection, "probe", "written")

    def events_after(self, position: int, limit: int) -> list[LoggedRow]:
        rows = self._database.read(
            "SELECT position, id, kind, body FROM events WHERE position > ? ORDER BY position LIMIT ?",
            (position, limit),
        )
        return [LoggedRow(**row) for row in map(dict, rows)]

    def position_of(self, stream_id: str) -> int:
        """Position of an event, or of the last one before it if it is not here. ValueError if it is no id."""
        milliseconds, number = order_of(stream_id)
        exact = self._database.read("SELECT position FROM events WHERE id = ?", (stream_id,))
        if exact:
            return int(exact[0]["position"])
        # A gap has the numbers of the event that it stands in front of, which is not before it.
        compare = "<" if stream_id.endswith(GAP_SUFFIX) else "<="
        return self._one(
            f"SELECT COALESCE(MAX(position), 0) AS found FROM events WHERE (milliseconds, number) {compare} (?, ?)",
            (milliseconds, number),
        )

    def is_beyond(self, stream_id: str) -> bool:
        """Whether the id is larger than all here, so that it is one of an earlier store. ValueError if it is no id."""
        rows = self._database.read(
            "SELECT milliseconds, number FROM events ORDER BY milliseconds DESC, number DESC LIMIT 1"
        )
        return order_of(stream_id) > (tuple(rows[0]) if rows else order_of(START))

    def newest_event_id(self) -> str:
        rows = self._database.read("SELECT id FROM events ORDER BY position DESC LIMIT 1")
        return str(rows[0]["id"]) if rows else START

    def newest_exchange_id(self) -> int:
        return self._one("SELECT COALESCE(MAX(id), 0) AS found FROM exchanges", ())

    def exchange(self, exchange_id: int) -> ExchangeView | None:
        rows = self._database.read(f"{_SELECT_EXCHANGES} WHERE exchanges.id = ?", (exchange_id,))
        return exchange_view(rows[0]) if rows else None

    def exchange_told(
        self, wanted: ExchangeFilter, *, student: str, step: int, problem_id: str, sample: int
    ) -> ExchangeView | None:
        """The exchange with this key, if the filter wants it."""
        key: list[Condition] = [
            ("exchanges.student = ?", student),
            ("exchanges.step = ?", step),
            ("exchanges.problem_id = ?", problem_id),
            ("exchanges.sample = ?", sample),
        ]
        found = self._exchanges(conditions(wanted) + key, "ASC", 1)
        return found[0] if found else None

    def group_told(self, wanted: ExchangeFilter, *, student: str, step: int, problem_id: str) -> list[ExchangeView]:
        """Those of the filter that are about one problem of one step, by id."""
        key: list[Condition] = [
            ("exchanges.student = ?", student),
            ("exchanges.step = ?", step),
            # The sign keeps SQLite from the index over problems alone, which orders by id, but may hold the whole log.
            ("+exchanges.problem_id = ?", problem_id),
        ]
        return self._exchanges(conditions(wanted) + key, "ASC", MAX_GROUP)

    def newest_exchanges(
        self, wanted: ExchangeFilter, *, before: int | None, after: int = 0, limit: int
    ) -> list[ExchangeView]:
        """Newest first, with ids below `before` and above `after`."""
        between: Between = (after, EVERY[1] if before is None else before)
        return self._exchanges_between(wanted, between, "DESC", limit)

    def exchanges_between(
        self, wanted: ExchangeFilter, *, after: int, upto: int | None = None, limit: int
    ) -> list[ExchangeView]:
        """Oldest first, with ids above `after` and at most `upto`."""
        between: Between = (after, EVERY[1] if upto is None else upto + 1)
        return self._exchanges_between(wanted, between, "ASC", limit)

    def spread(self, wanted: ExchangeFilter) -> list[Counted]:
        """How often the exchanges of a filter have each value of each dimension."""
        where, parameters = where_of(conditions(wanted))
        rows = self._database.read(SPREAD.format(where=where), parameters)
        return [Counted(row["dimension"], row["value"], row["count"]) for row in rows]

    def steps_without_divergence(self) -> list[tuple[str, int]]:
        """Steps with exchanges, by student, of which no divergence is kept. Of an index alone, as it is asked often."""
        rows = self._database.read(
            "SELECT DISTINCT student, step FROM exchanges EXCEPT SELECT student, step FROM divergences"
        )
        return [(row["student"], row["step"]) for row in rows]

    def unsealed_steps(self) -> list[tuple[str, int, float]]:
        """Steps with exchanges that no sealed batch told, by student, and when the newest of each was told."""
        rows = self._database.read(
            "SELECT student, step, MAX(at) AS at FROM exchanges WHERE sealed = 0 GROUP BY student, step"
        )
        return [(row["student"], row["step"], row["at"]) for row in rows]

    def put_exchanges(self, exchanges: Iterable[StoredExchange]) -> None:
        """Without an event: of a batch whose event is in the log already, or was missed."""
        with self._database.transaction() as connection:
            self._put_exchanges(connection, exchanges)

    def put_divergences(self, student: str, step: int, nats: Mapping[tuple[str, int], float]) -> None:
        with self._database.transaction() as connection:
            connection.executemany(
                # Replaced, not refused: a step that is made again has the same ones.
                "INSERT OR REPLACE INTO divergences (student, step, problem_id, sample, nats) VALUES (?, ?, ?, ?, ?)",
                [(student, step, problem_id, sample, value) for (problem_id, sample), value in nats.items()],
            )

    def close(self) -> None:
        self._database.close()

    def _exchanges_between(
        self, wanted: ExchangeFilter, between: Between, order: Order, limit: int
    ) -> list[ExchangeView]:
        found: list[ExchangeView] = []
        for span in spans(between, self.newest_exchange_id(), order) if wanted.q else [between]:
            found += self._exchanges(conditions(wanted, span), order, limit - len(found))
            if len(found) >= limit:
                break
        return found

    def _exchanges(self, all_conditions: Sequence[Condition], order: Order, limit: int) -> list[ExchangeView]:
        where, parameters = where_of(all_conditions)
        sql = f"{_SELECT_EXCHANGES} WHERE {where} ORDER BY exchanges.id {order} LIMIT ?"
        return [exchange_view(row) for row in self._database.read(sql, [*parameters, limit])]

    def _put_details(self, connection: sqlite3.Connection, entry: Entry) -> None:
        if isinstance(entry.event, FeedbackGiven):
            connection.execute(_PUT_EXCHANGE, _exchange_parameters(self._run, told(entry.event)))
        elif isinstance(entry.event, Revised):
            connection.execute(_PUT_REVISION, entry.event.model_dump())
        elif isinstance(entry.event, Acted) and isinstance(entry.event.act, ExchangeAct):
            act = entry.event.act
            fields = act.exchange.model_dump() | act.model_dump(exclude={"exchange"})
            connection.execute(_PUT_ACT, fields | {"at": entry.event.at, "refused": entry.event.refused})
        self._put_exchanges(connection, entry.exchanges)

    def _put_exchanges(self, connection: sqlite3.Connection, exchanges: Iterable[StoredExchange]) -> None:
        connection.executemany(_PUT_EXCHANGE, [_exchange_parameters(self._run, exchange) for exchange in exchanges])

    def _reindex(self) -> None:
        """All or nothing; some seconds for a hundred thousand exchanges."""
        with self._database.transaction() as connection:
            for statement in REINDEX:
                connection.execute(statement)
            _put_meta(connection, "schema", SCHEMA_VERSION)

    def _adopt(self, path: Path) -> None:
        for name, expected in (("schema", SCHEMA_VERSION), ("run", self._run)):
            found = self._meta(name)
            if found is None:
                with self._database.transaction() as connection:
                    _put_meta(connection, name, expected)
            elif found != expected:
                raise ConfigError(
                    f"{path}: expected a store with {name} {expected!r}, got {found!r}; move the file away, "
                    "a new one is filled from the events that Redis still has"
                )

    def _meta(self, name: str) -> str | None:
        rows = self._database.read("SELECT value FROM meta WHERE name = ?", (name,))
        return str(rows[0]["value"]) if rows else None

    def _one(self, sql: str, parameters: Sequence[Value]) -> int:
        return int(self._database.read(sql, parameters)[0]["found"])


def store_or_new(path: Path, run: str, at: float) -> Store:
    """The store there; in the place of one that is damaged, which is set aside as of `at`, a new one.

    Raises as Store where it is something else.
    """
    try:
        return Store(path, run)
    except DamagedStoreError as error:
        aside = set_aside(path, at)
        log.warning("a damaged store was set aside; a new one begins", error=str(error), aside=str(aside))
        return Store(path, run)


def _put_event(connection: sqlite3.Connection, entry: Entry) -> bool:
    """False if an event with this id is there already."""
    done = connection.execute(
        "INSERT INTO events (id, milliseconds, number, kind, body) VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
        (entry.id, *order_of(entry.id), entry.event.kind, entry.event.model_dump_json()),
    )
    return done.rowcount == 1


def _put_meta(connection: sqlite3.Connection, name: str, value: str) -> None:
    connection.execute(
        "INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        (name, value),
    )


def _exchange_parameters(run: str, exchange: StoredExchange) -> dict[str, Value]:
    return asdict(exchange) | {"run": run, "removed": json.dumps(exchange.removed)}
