"""One SQLite file in WAL mode: at most one writer, readers that never wait for it, and errors that name the file.

What always holds: a transaction is there whole or not at all, whatever kills the process in it.
"""

import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, LifoQueue

from shared.errors import StorageError
from shared.files.durable import storage_errors

_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

Value = str | int | float | None


class DamagedStoreError(StorageError):
    """A file that is no database, or no whole one: no later call will read it."""


class ReadOnlyDatabase:
    """A file of another process. Safe to use from many threads; raises StorageError from every call, DamagedStoreError
    where that is the reason.

    busy_s: how long a call waits for another process that holds the file.
    """

    def __init__(self, path: Path, *, busy_s: float) -> None:
        self.path = path
        self._busy_s = busy_s
        self._idle_readers: LifoQueue[sqlite3.Connection] = LifoQueue()

    def read(self, sql: str, parameters: Sequence[Value] | Mapping[str, Value] = ()) -> list[sqlite3.Row]:
        with self._errors("read"), self._reader() as connection:
            return connection.execute(sql, parameters).fetchall()

    def close(self) -> None:
        """Call it when no other thread reads or writes any more."""
        while not self._idle_readers.empty():
            self._idle_readers.get_nowait().close()

    @contextmanager
    def _reader(self) -> Iterator[sqlite3.Connection]:
        try:
            connection = self._idle_readers.get_nowait()
        except Empty:
            connection = self._connect()
            connection.execute("PRAGMA query_only = ON")  # a filter that slipped past the parameters cannot write
        try:
            yield connection
        finally:
            # Also after an error: outside a transaction a failed SELECT leaves nothing open in the connection.
            self._idle_readers.put(connection)

    def _connect(self) -> sqlite3.Connection:
        return self._opened("ro")

    def _opened(self, mode: str) -> sqlite3.Connection:
        # No implicit transactions; a connection is used by one thread at a time, not always the same one.
        address = f"{self.path.absolute().as_uri()}?mode={mode}"
        connection = sqlite3.connect(
            address, uri=True, timeout=self._busy_s, isolation_level=None, check_same_thread=False
        )
        connection.row_factory = sqlite3.Row
        return connection

    @contextmanager
    def _errors(self, operation: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            # Extended codes have the plain one in their lowest byte.
            damaged = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF in _DAMAGE
            raise (DamagedStoreError if damaged else StorageError)(
                f"cannot {operation} the inspector's store {self.path}: {error}; check free space and permissions, "
                "or move the file away: it is filled again from the events that Redis still has"
            ) from error


class Database(ReadOnlyDatabase):
    """Opens or creates the file."""

    def __init__(self, path: Path, tables: str, *, busy_s: float) -> None:
        super().__init__(path, busy_s=busy_s)
        self._lock = threading.Lock()
        with self._errors("open"):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = self._connect()
            try:
                self._writer.execute("PRAGMA journal_mode = WAL")
                # A power cut may take the newest transactions, never their wholeness; the stream still has those
                # events.
                self._writer.execute("PRAGMA synchronous = NORMAL")
                self._writer.executescript(tables)
            except sqlite3.Error:
                self._writer.close()
                raise

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """The writer's connection inside BEGIN IMMEDIATE; committed at the end, rolled back on any error."""
        # There is one writing connection for all threads; without the lock a second thread's BEGIN would meet the first
        # one's transaction, which no timeout waits for.
        with self._lock, self._errors("write"):
            # Takes the write lock at once: upgrading a read to a write may fail at once, however long the timeout.
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            finally:
                # Some errors, a full disk among them, make SQLite roll back by itself; a second ROLLBACK would raise
                # and hide the error that counts.
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")

    def close(self) -> None:
        self._writer.close()
        super().close()

    def _connect(self) -> sqlite3.Connection:
        return self._opened("rwc")


def set_aside(path: Path, at: float) -> Path:
    """Rename a file that nobody has open to `<its name>.broken-<at>`, with its log; returns its new path.

    Raises StorageError if it cannot be done.
    """
    aside = path.with_name(f"{path.name}.broken-{at:.0f}")
    with storage_errors(path, 0):
        for suffix in ("-wal", "-shm", ""):
            beside = path.with_name(f"{path.name}{suffix}")
            if beside.exists():
                beside.rename(f"{aside}{suffix}")
    return aside
