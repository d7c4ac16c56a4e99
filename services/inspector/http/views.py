"""Bodies of the inspector's HTTP API."""

import json
import sqlite3
from typing import Literal

from services.inspector.store.records import LOGGED_EVENT, LoggedEvent
from shared.contracts.acting import ExchangeRef
from shared.contracts.events import Acted
from shared.contracts.messages import ChatMessage, Contract
from shared.contracts.traces import RolloutTrace


class RevisionView(Contract):
    """The student's answer after the feedback; before and after say whether it was right."""

    before: bool
    after: bool
    change: Literal["fixed", "broke", "same"]
    text: str


class ActView(Contract):
    """What a person did about an exchange. refused: why it was not done."""

    id: str
    at: float
    act: Literal["flag", "exclude"]
    by: str
    reason: str
    refused: str | None


class ExchangeView(Contract):
    """One exchange; `key` names it to the broker. verdict is the word class, word the matched word; raw is what the
    tutor wrote, delivered what the self-teacher sees of it, removed what rules took out of the raw text beside the
    concept. cut: texts are shortened until the batch is sealed. withheld: feedback that was let through, but that a
    person excluded. at: seconds since the epoch."""

    id: int
    key: str
    run: str
    at: float
    round: int
    step: int
    student: str
    tutor: str
    tutor_version: str
    version: str
    domain: str
    problem_id: str
    question: str
    sample: int
    response: str
    correct: bool
    verdict: str
    word: str | None
    raw: str | None
    delivered: str | None
    removed: tuple[str, ...]
    cut: bool
    sealed: bool
    withheld: str | None
    revision: RevisionView | None
    history: tuple[ActView, ...]


class Critique(Contract):
    """An answer, the feedback that was let through, and the answer after it. sample: which of the problem's rollouts.
    word: the matched word of the verdict. cut: one of the texts is cut at 1200 characters."""

    run: str
    round: int
    step: int
    student: str
    tutor: str
    tutor_version: str
    version: str
    domain: str
    problem_id: str
    sample: int
    problem: str
    answer: str
    correct: bool
    word: str | None
    feedback: str
    revised: str
    revised_correct: bool
    change: Literal["fixed", "broke", "same"]
    cut: bool


class PreferencePair(Contract):
    """A right and a wrong rollout of one problem by one version, whole. prompt: the messages as the student was asked;
    chosen, rejected: a turn of the assistant each. rejected_finish_reason: `length` where it was wrong for it was cut.
    """

    run: str
    round: int
    step: int
    student: str
    version: str
    domain: str
    kind: str
    problem_id: str
    prompt: tuple[ChatMessage, ...]
    chosen: tuple[ChatMessage, ...]
    rejected: tuple[ChatMessage, ...]
    chosen_sample: int
    rejected_sample: int
    rejected_finish_reason: str


class TraceView(RolloutTrace):
    """Where student and self-teacher disagreed on this rollout. version: the student that wrote it."""

    version: str


class FeedbackPage(Contract):
    """Exchanges, newest first. `before=<older>` gives the next page back in time, None at the end of it;
    `after=<newest>` asks for what came since. `cursor`: open /v1/stream after it, and no event is missed."""

    items: tuple[ExchangeView, ...]
    older: int | None
    newest: int
    cursor: str


class ActPage(Contract):
    """What people did about the run, newest first."""

    items: tuple[Acted, ...]


class EventView(Contract):
    id: str
    kind: str
    event: LoggedEvent


class EventPage(Contract):
    """Events in the order of the log; `after=<cursor>` goes on."""

    items: tuple[EventView, ...]
    cursor: str


def exchange_view(row: sqlite3.Row) -> ExchangeView:
    """From a row of exchanges joined with revisions, whose columns are named `revision_…`, and its acts as JSON."""
    made = ("key", "removed", "revision", "history")
    fields = {name: row[name] for name in ExchangeView.model_fields if name not in made}
    key = ExchangeRef(**{name: row[name] for name in ExchangeRef.model_fields}).key
    acts = sorted((ActView(**act) for act in json.loads(row["history"])), key=lambda act: act.at)
    revision = None
    if row["revision_change"] is not None:
        revision = RevisionView(**{name: row[f"revision_{name}"] for name in RevisionView.model_fields})
    return ExchangeView(**fields, key=key, removed=json.loads(row["removed"]), revision=revision, history=tuple(acts))


def event_view(stream_id: str, kind: str, body: str) -> EventView:
    return EventView(id=stream_id, kind=kind, event=LOGGED_EVENT.validate_json(body))
