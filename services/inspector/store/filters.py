"""Which exchanges a reader wants, and the SQL that says so. Every value is a bound parameter, whoever sent it."""

import sqlite3
from collections.abc import Iterator, Sequence
from itertools import accumulate, count, pairwise, takewhile
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from services.inspector.http.views import ExchangeView
from services.inspector.store.records import split_verdict
from services.inspector.store.schema import INDEXES
from shared.errors import shown
from shared.method.anchoring import VERDICTS
from shared.method.concept_words import UNSPACED_LETTER

# SQLite's largest integer: Python's have no bound, and sqlite3 raises OverflowError, not sqlite3.Error, beyond it.
MAX_INTEGER = 2**63 - 1

Whole = Annotated[int, Field(ge=0, le=MAX_INTEGER)]
Text = Annotated[str, Field(max_length=500)]
Nats = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class ExchangeFilter(BaseModel):
    """All given fields must hold. verdict is a word class (`match`), or a whole verdict (`match:torque`);
    redacted: whether rules took something out of the feedback, beside its concept and hidden thinking;
    acted finds exchanges that a person flagged or excluded (what was refused does not count);
    chars are those of the response, nats the mean divergence of a traced rollout; both ends of a range are in it, but
    that of max_nats;
    q finds exchanges whose question, response or raw feedback has every word of it, at least as a beginning,
    in Chinese, Japanese, Korean, Thai and the like anywhere."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    round: Whole | None = None
    step: Whole | None = None
    student: Text | None = None
    tutor: Text | None = None
    domain: Text | None = None
    verdict: Text | None = None
    problem_id: Text | None = None
    sample: Whole | None = None
    correct: bool | None = None
    change: Literal["fixed", "broke", "same"] | None = None
    redacted: bool | None = None
    acted: Literal["flag", "exclude"] | None = None
    min_step: Whole | None = None
    max_step: Whole | None = None
    min_chars: Whole | None = None
    max_chars: Whole | None = None
    min_nats: Nats | None = None
    max_nats: Nats | None = None
    q: Text | None = None

    @field_validator("verdict")
    @classmethod
    def _known(cls, verdict: str | None) -> str | None:
        if verdict is not None and split_verdict(verdict)[0] not in VERDICTS:
            raise ValueError(f"expected one of {', '.join(VERDICTS)} or match:<word>, got {shown(verdict)}")
        return verdict


Condition = tuple[str, *tuple[str | int | float, ...]]
"""SQL and its parameters."""

Between = tuple[int, int]
"""Ids of exchanges, neither of them included."""
EVERY: Between = (0, MAX_INTEGER)

Order = Literal["ASC", "DESC"]
FIRST_SPAN, WIDER = 2000, 8
"""Ids that a search is asked about at first, and how much wider each next stretch of them is."""

ANY = "TRUE"
"""The condition of a filter that wants everything: a WHERE has to have one."""

_DIVERGES = (
    "EXISTS (SELECT 1 FROM divergences WHERE divergences.student = exchanges.student AND divergences.step = "
    "exchanges.step AND divergences.problem_id = exchanges.problem_id AND divergences.sample = exchanges.sample AND "
    "divergences.nats {compared} ?)"
)
_RANGES = {
    "min_step": "exchanges.step >= ?",
    "max_step": "exchanges.step <= ?",
    "min_chars": "length(exchanges.response) >= ?",
    "max_chars": "length(exchanges.response) <= ?",
    "min_nats": _DIVERGES.format(compared=">="),
    "max_nats": _DIVERGES.format(compared="<"),
}


def conditions(wanted: ExchangeFilter, between: Between | None = None) -> list[Condition]:
    """For each given field, and the ids; tables are `exchanges` and `revisions`."""
    found: list[Condition] = []
    if between is not None:
        found.append(("exchanges.id > ?", between[0]))
        # An end that excludes nothing would lead SQLite from the index of a verdict or problem to that of the words.
        found += [("exchanges.id < ?", between[1])] if between[1] < MAX_INTEGER else []
    for name in ("round", "step", "student", "tutor", "domain", "problem_id", "sample", "correct"):
        value = getattr(wanted, name)
        if value is not None:
            # Only a name of the tuple above gets into the SQL, never one that a reader sent.
            found.append((f"{_sign(name, wanted)}exchanges.{name} = ?", value))
    found += [(sql, value) for name, sql in _RANGES.items() if (value := getattr(wanted, name)) is not None]
    if wanted.change is not None:
        found.append(("revisions.change = ?", wanted.change))
    if wanted.redacted is not None:
        # Without a parameter, as the index is of those for which it holds literally.
        found.append((f"exchanges.removed {'<>' if wanted.redacted else '='} '[]'",))
    if wanted.acted is not None:
        found.append((_ACTED, wanted.acted))
    if wanted.verdict is not None:
        verdict, word = split_verdict(wanted.verdict)
        found.append(("exchanges.verdict = ?", verdict))
        if word is not None:
            found.append(("exchanges.word = ?", word))
    return [*found, *_text_conditions(wanted.q or "", between or EVERY)]


def spans(between: Between, newest: int, order: Order) -> list[Between]:
    """The same ids in stretches, as they are read in this order.

    An index of words gathers every match of the ids that it is asked about, however few are wanted of them.
    """
    low, high = between[0], min(between[1] - 1, newest)
    widths = accumulate(FIRST_SPAN * WIDER**wider for wider in count())
    cuts = list(takewhile(lambda width: width < high - low, widths))
    ends = [low + cut for cut in cuts] if order == "ASC" else [high - cut for cut in reversed(cuts)]
    # The last one keeps the end that was given: what comes meanwhile belongs to it.
    found = [(after, between[1] if last == high else last + 1) for after, last in pairwise([low, *ends, high])]
    return found if order == "ASC" else found[::-1]


def where_of(all_conditions: Sequence[Condition]) -> tuple[str, list[str | int | float]]:
    """All of them as one, and its parameters in order."""
    where = " AND ".join(condition for condition, *_ in all_conditions) or ANY
    return where, [value for _, *values in all_conditions for value in values]


def _sign(name: str, wanted: ExchangeFilter) -> str:
    """`+` before the student, unless the steps are given: it keeps SQLite from the index over student and step, which
    would read and sort all that the student was ever told, for each page."""
    both_ends = wanted.min_step is not None and wanted.max_step is not None
    return "+" if name == "student" and wanted.step is None and not both_ends else ""


# From the acts, which are few, and not for each exchange.
_ACTED = (
    "exchanges.id IN (SELECT told.id FROM acts JOIN exchanges AS told USING (student, step, problem_id, sample) "
    "WHERE acts.refused IS NULL AND acts.act = ?)"
)
# With the ids in it, too: without them the index would tell all that it has, for each page of old exchanges.
_MATCHES = "exchanges.id IN (SELECT rowid FROM exchange_texts WHERE exchange_texts MATCH ? AND rowid > ? AND rowid < ?)"
_HAS_STRETCH = (
    "exchanges.id IN (SELECT rowid FROM exchange_grams WHERE exchange_grams MATCH ? AND rowid > ? AND rowid < ?)"
)
# The index has three characters in a row. What is shorter is looked for in the texts, and a word of one or two
# characters mostly stands in so many that the newest are soon found.
_HAS_SHORT_STRETCH = (
    "instr(exchanges.question || char(10) || exchanges.response || char(10) || COALESCE(exchanges.raw, ''), ?) > 0"
)
_GRAM = 3


def _text_conditions(text: str, between: Between) -> Iterator[Condition]:
    """Every word of the text, at least as a beginning; a stretch anywhere where blanks do not tell words apart."""
    # A NUL ends the expression for FTS5, and the quote that was opened before it would stand open.
    words = text.replace("\x00", " ").split()
    stretches = [word for word in words if UNSPACED_LETTER.search(word)]
    expression = match_expression(" ".join(word for word in words if word not in stretches))
    if expression:
        yield _MATCHES, expression, *between
    for stretch in stretches:
        if len(stretch) >= _GRAM:
            yield _HAS_STRETCH, _quoted(stretch), *between
        else:
            yield _HAS_SHORT_STRETCH, stretch


class TextSearch:
    """Which exchanges at hand have a text, as a filter with it as `q` would find them.

    It asks an index of these alone: that of the log gathers every match there is, however few are asked about. To be
    closed by the thread that made it.
    """

    def __init__(self, text: str) -> None:
        found = list(_text_conditions(text, EVERY))
        self._where, self._parameters = where_of(found)
        self._known: dict[int, bool] = {}
        self._memory = sqlite3.connect(":memory:", isolation_level=None)
        texts = "CREATE TABLE exchanges (id INTEGER PRIMARY KEY, question TEXT, response TEXT, raw TEXT)"
        for statement in (texts, *INDEXES) if found else ():
            self._memory.execute(statement)

    def among(self, exchanges: Sequence[ExchangeView]) -> list[ExchangeView]:
        """Those that have it, in their order."""
        if self._where == ANY:
            return list(exchanges)
        new = [exchange for exchange in exchanges if exchange.id not in self._known]
        if new:
            self._look(new)
        return [exchange for exchange in exchanges if self._known[exchange.id]]

    def _look(self, new: Sequence[ExchangeView]) -> None:
        texts = [(exchange.id, exchange.question, exchange.response, exchange.raw) for exchange in new]
        self._memory.executemany("INSERT INTO exchanges VALUES (?, ?, ?, ?)", texts)
        found = self._memory.execute(f"SELECT id FROM exchanges WHERE {self._where}", self._parameters)
        have = {row[0] for row in found}
        self._known |= {exchange.id: exchange.id in have for exchange in new}

    def close(self) -> None:
        self._memory.close()


def match_expression(text: str) -> str:
    """An FTS5 query for the words of `text`: each one quoted, so that no operator of FTS5 is left in it.
    Empty if there is no word."""
    return " ".join(_quoted(word) + " *" for word in text.split())


def _quoted(word: str) -> str:
    # Doubled, as FTS5's strings want it; a backslash escapes nothing there.
    return '"' + word.replace('"', '""') + '"'
