"""Some exchanges of a step as a table, and where the student and its self-teacher disagreed on them as another."""

import hashlib
from collections.abc import Iterator

from opcod.talk.exchanges import Exchanges
from opcod.talk.text import MOST_DIVERGENT, likeliest
from services.inspector.http.views import ExchangeView, TraceView
from services.inspector.store.filters import ExchangeFilter
from shared.errors import NotFoundError
from shared.results.grid import Grid, plain

# All that an inspector gives at once; a step of the paper's has 256 rollouts.
DRAWN_FROM = 200

EXCHANGE_COLUMNS = (
    "exchange",
    "round",
    "tutor",
    "domain",
    "problem",
    "answer",
    "right before",
    "said",
    "let through",
    "verdict",
    "answer after",
    "right after",
)
TRACE_COLUMNS = ("exchange", "token", "divergence, nats", "student", "self-teacher")


def step_tables(exchanges: Exchanges, student: str, step: int, shown: int) -> Iterator[Grid]:
    """`<student>/exchanges`, and `<student>/traces` with the most divergent tokens; neither where it would be empty.

    The same `shown` exchanges whenever it is asked: those that were answered again first, then by a hash of the key.
    """
    found = exchanges.newest(ExchangeFilter(student=student, step=step), DRAWN_FROM)
    chosen = sorted(found, key=lambda each: (each.revision is None, _drawn(each.key)))[:shown]
    if chosen:
        yield Grid(f"{student}/exchanges", plain(*EXCHANGE_COLUMNS), [_exchange(each) for each in chosen])
    rows = [row for each in chosen for row in _trace(exchanges, each)]
    if rows:
        yield Grid(f"{student}/traces", plain(*TRACE_COLUMNS), rows)


def _drawn(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _exchange(told: ExchangeView) -> list[str | int | None]:
    after = told.revision
    return [
        told.key,
        told.round,
        told.tutor,
        told.domain,
        told.question,
        told.response,
        _yes(told.correct),
        told.raw,
        told.delivered,
        f"{told.verdict}:{told.word}" if told.word else told.verdict,
        after.text if after else None,
        _yes(after.after) if after else None,
    ]


def _trace(exchanges: Exchanges, told: ExchangeView) -> Iterator[list[str | float]]:
    try:
        trace: TraceView = exchanges.trace(told)
    except NotFoundError:
        return  # only a share of the rollouts is traced
    for token in sorted(trace.tokens, key=lambda token: -token.divergence)[:MOST_DIVERGENT]:
        yield [told.key, token.text, token.divergence, likeliest(token.student_top), likeliest(token.teacher_top)]


def _yes(right: bool) -> str:
    return "yes" if right else "no"
