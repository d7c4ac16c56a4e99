"""Tables of the inspector's store.

`position` orders the log as it was read and never goes back, even when the stream itself began anew with
smaller ids. Exchanges, revisions and acts share a key but not a foreign key: any may come first, or alone.
"""

SCHEMA_VERSION = "2"

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
CREATE INDEX IF NOT EXISTS exchanges_verdict ON exchanges (verdict, id);
CREATE INDEX IF NOT EXISTS exchanges_problem ON exchanges (problem_id, id);

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

CREATE VIRTUAL TABLE IF NOT EXISTS exchange_texts USING fts5 (
    question, response, raw, content = 'exchanges', content_rowid = 'id'
);
CREATE TRIGGER IF NOT EXISTS exchange_inserted AFTER INSERT ON exchanges BEGIN
    INSERT INTO exchange_texts (rowid, question, response, raw)
    VALUES (new.id, new.question, new.response, new.raw);
END;
CREATE TRIGGER IF NOT EXISTS exchange_updated AFTER UPDATE OF question, response, raw ON exchanges BEGIN
    INSERT INTO exchange_texts (exchange_texts, rowid, question, response, raw)
    VALUES ('delete', old.id, old.question, old.response, old.raw);
    INSERT INTO exchange_texts (rowid, question, response, raw)
    VALUES (new.id, new.question, new.response, new.raw);
END;
"""
