"""Tables of the inspector's store.

Two indexes find texts. `exchange_texts` has words, with their combining marks, and their first characters: without
these what one letter finds would be put together of all words that begin with it. `exchange_grams` has every three
characters in a row, of the rows in which blanks do not tell words apart (Han, kana, Hangul, Thai, …): for others it
would cost a multiple of their text and find nothing more. Both are made anew when a store of an earlier schema that
differs in nothing else is opened.
`position` orders the log as it was read and never goes back, even when the stream itself began anew with
smaller ids. Exchanges, revisions, divergences and acts share a key but not a foreign key: any may come first, or alone.
"""

from shared.method.scripts import HANGUL, UNSPACED

SCHEMA_VERSION = "4"
REINDEXED_VERSIONS = ("2", "3")
"""Earlier schemas that differ in the indexes alone."""

TABLES = """
CREATE TABLE IF NOT EXISTS meta (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS events (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    milliseconds INTEGER NOT NULL,
    number INTEGER NOT NULL,
    kind TEXT NOT NULL,
    body TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS events_order ON events (milliseconds, number);
CREATE INDEX IF NOT EXISTS events_kind ON events (kind, position);

CREATE TABLE IF NOT EXISTS exchanges (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    run TEXT NOT NULL,
    at REAL NOT NULL,
    round INTEGER NOT NULL,
    step INTEGER NOT NULL,
    student TEXT NOT NULL,
    tutor TEXT NOT NULL,
    tutor_version TEXT NOT NULL,
    version TEXT NOT NULL,
    domain TEXT NOT NULL,
    problem_id TEXT NOT NULL,
    question TEXT NOT NULL,
    sample INTEGER NOT NULL,
    response TEXT NOT NULL,
    correct INTEGER NOT NULL,
    verdict TEXT NOT NULL,
    word TEXT,
    raw TEXT,
    delivered TEXT,
    removed TEXT NOT NULL,
    cut INTEGER NOT NULL,
    sealed INTEGER NOT NULL,
    withheld TEXT,
    UNIQUE (student, step, problem_id, sample)
);
CREATE INDEX IF NOT EXISTS exchanges_round ON exchanges (round, id);
-- Verdicts are counted for every look at a run; without it that reads every text that is stored.
CREATE INDEX IF NOT EXISTS exchanges_told ON exchanges (student, step, verdict);
CREATE INDEX IF NOT EXISTS exchanges_verdict ON exchanges (verdict, id);
CREATE INDEX IF NOT EXISTS exchanges_problem ON exchanges (problem_id, id);
-- Asked again and again, for batches that are still to be read. A few steps at most are in it.
CREATE INDEX IF NOT EXISTS exchanges_unsealed ON exchanges (student, step) WHERE sealed = 0;
-- A few in a thousand, as a rule.
CREATE INDEX IF NOT EXISTS exchanges_redacted ON exchanges (id) WHERE removed <> '[]';

CREATE TABLE IF NOT EXISTS revisions (
    student TEXT NOT NULL,
    step INTEGER NOT NULL,
    problem_id TEXT NOT NULL,
    sample INTEGER NOT NULL,
    before INTEGER NOT NULL,
    after INTEGER NOT NULL,
    change TEXT NOT NULL,
    text TEXT NOT NULL,
    PRIMARY KEY (student, step, problem_id, sample)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS divergences (
    student TEXT NOT NULL,
    step INTEGER NOT NULL,
    problem_id TEXT NOT NULL,
    sample INTEGER NOT NULL,
    nats REAL NOT NULL,
    PRIMARY KEY (student, step, problem_id, sample)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS acts (
    id TEXT PRIMARY KEY,
    at REAL NOT NULL,
    act TEXT NOT NULL,
    student TEXT NOT NULL,
    step INTEGER NOT NULL,
    problem_id TEXT NOT NULL,
    sample INTEGER NOT NULL,
    by TEXT NOT NULL,
    reason TEXT NOT NULL,
    refused TEXT
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS acts_exchange ON acts (student, step, problem_id, sample);

CREATE TABLE IF NOT EXISTS usage (
    id INTEGER PRIMARY KEY,
    at REAL NOT NULL,
    service TEXT NOT NULL,
    replica TEXT NOT NULL,
    cores REAL NOT NULL,
    bytes INTEGER NOT NULL,
    gpus REAL,
    gpu_bytes INTEGER
);
CREATE INDEX IF NOT EXISTS usage_at ON usage (at);
"""

_COLUMNS = ("question", "response", "raw")


def _unspaced(row: str) -> str:
    """The condition that a row (`new`, `old` or a table) has a letter of a script without blanks between words."""
    # Most texts are ASCII, as many bytes as characters; the pattern takes a hundred times as long as this look at them.
    columns = (
        f"(length(CAST({row}.{name} AS BLOB)) > length({row}.{name}) AND {row}.{name} GLOB '*[{UNSPACED}{HANGUL}]*')"
        for name in _COLUMNS
    )
    return f"({' OR '.join(columns)})"


def _entered(index: str, row: str) -> str:
    named = ", ".join(_COLUMNS)
    return f"INSERT INTO {index} (rowid, {named}) SELECT {row}.id, {', '.join(f'{row}.{name}' for name in _COLUMNS)}"


def _removed(index: str) -> str:
    named, values = ", ".join(_COLUMNS), ", ".join(f"old.{name}" for name in _COLUMNS)
    return f"INSERT INTO {index} ({index}, rowid, {named}) SELECT 'delete', old.id, {values}"


INDEXES = (
    f"""
    CREATE VIRTUAL TABLE IF NOT EXISTS exchange_texts USING fts5 (
        {", ".join(_COLUMNS)}, content = 'exchanges', content_rowid = 'id',
        prefix = '1', tokenize = "unicode61 categories 'L* N* Co Mn Mc'"
    )""",
    f"""
    CREATE VIRTUAL TABLE IF NOT EXISTS exchange_grams USING fts5 (
        {", ".join(_COLUMNS)}, content = 'exchanges', content_rowid = 'id', tokenize = 'trigram'
    )""",
    f"""
    CREATE TRIGGER IF NOT EXISTS exchange_inserted AFTER INSERT ON exchanges BEGIN
        {_entered("exchange_texts", "new")};
        {_entered("exchange_grams", "new")} WHERE {_unspaced("new")};
    END""",
    f"""
    CREATE TRIGGER IF NOT EXISTS exchange_updated AFTER UPDATE OF {", ".join(_COLUMNS)} ON exchanges BEGIN
        {_removed("exchange_texts")};
        {_removed("exchange_grams")} WHERE {_unspaced("old")};
        {_entered("exchange_texts", "new")};
        {_entered("exchange_grams", "new")} WHERE {_unspaced("new")};
    END""",
)

SCRIPT = f"{TABLES}{';'.join(INDEXES)};"
"""What a store is opened with."""

REINDEX = (
    "DROP TRIGGER exchange_inserted",
    "DROP TRIGGER exchange_updated",
    "DROP TABLE exchange_texts",
    "DROP TABLE exchange_grams",
    *INDEXES,
    "INSERT INTO exchange_texts (exchange_texts) VALUES ('rebuild')",
    f"{_entered('exchange_grams', 'exchanges')} FROM exchanges WHERE {_unspaced('exchanges')}",
)
"""The statements that make both indexes anew, after `SCRIPT`."""
