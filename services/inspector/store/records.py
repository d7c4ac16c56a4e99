"""What the inspector keeps: the log of events as it came, and the exchanges between students taken from it.

An exchange is one rollout with what the tutor said of it; (student, step, problem_id, sample) is its key.
Events cut long texts, the sealed batch has them whole and is the last word on an exchange.

Ids are those of the event stream, as Redis gives them (`<milliseconds>-<number>`). A gap is named after the event that
it was noticed in front of, `<id>.gap`, and sorts right before that event.
"""

import re
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from shared.contracts.batches import BatchGroup, BatchManifest, BatchSample
from shared.contracts.events import BaseEvent, Event, FeedbackGiven
from shared.method.grading import SUCCESS_THRESHOLD


class Gap(BaseEvent):
    """Events after `after` and before `before` may be missing: the stream was trimmed, or began anew."""

    kind: Literal["gap"] = "gap"
    after: str
    before: str
    reason: Literal["trimmed", "restarted"]


LoggedEvent = Annotated[Event | Gap, Field(discriminator="kind")]
LOGGED_EVENT: TypeAdapter[LoggedEvent] = TypeAdapter(LoggedEvent)


@dataclass(frozen=True)
class StoredExchange:
    """One exchange, as an event or a sealed batch tells it. verdict is the word class (`match`, `no_match`, …),
    word the matched word, at the seconds since the epoch when it was told; withheld: feedback that was let through,
    but that a person excluded."""

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
    withheld: str | None = None


@dataclass(frozen=True)
class Entry:
    """One event of the log with its stream id, and the whole exchanges of the batch if it says one is sealed."""

    id: str
    event: LoggedEvent
    exchanges: tuple[StoredExchange, ...] = field(default=())


def split_verdict(verdict: str) -> tuple[str, str | None]:
    """`match:torque` -> (`match`, `torque`); other verdicts have no word."""
    name, _, word = verdict.partition(":")
    return name, word or None


def told(event: FeedbackGiven) -> StoredExchange:
    """The exchange that an event tells."""
    verdict, word = split_verdict(event.verdict)
    fields = event.model_dump(exclude={"kind", "source", "verdict"})
    return StoredExchange(**fields, verdict=verdict, word=word, sealed=False)


def sealed_exchange(
    manifest: BatchManifest, group: BatchGroup, sample: BatchSample, at: float
) -> StoredExchange | None:
    """The exchange around one sealed rollout, or None if no tutor was asked about it."""
    asked = manifest.tutor_of(group)
    if sample.verdict is None or asked is None:
        return None
    tutor, tutor_version = asked
    verdict, word = split_verdict(sample.verdict)
    return StoredExchange(
        at=at,
        round=manifest.round,
        step=manifest.step,
        student=manifest.student,
        tutor=tutor,
        tutor_version=tutor_version,
        version=manifest.base_version,
        domain=group.domain,
        problem_id=group.problem_id,
        question=group.question,
        sample=sample.index,
        response=sample.text,
        correct=sample.reward >= SUCCESS_THRESHOLD,
        verdict=verdict,
        word=word,
        raw=sample.feedback_raw,
        delivered=sample.feedback,
        removed=sample.removed,
        cut=False,
        sealed=True,
        withheld=sample.withheld,
    )


GAP_SUFFIX = ".gap"
START = "0"

_STREAM_ID = re.compile(r"([0-9]{1,20})(?:-([0-9]{1,20}))?(?:\.gap)?")
_MAX_INTEGER = 2**63 - 1
_LAST_NUMBER = 2**64 - 1


def order_of(stream_id: str) -> tuple[int, int]:
    """(milliseconds, number) of an id; a gap has those of the event it is in front of.

    Raises ValueError if it is not an id, or is larger than the store can hold.
    """
    match = _STREAM_ID.fullmatch(stream_id)
    if match is None:
        raise ValueError(f"expected a stream id such as 1764000000000-0, got {stream_id[:80]!r}")
    milliseconds, number = int(match[1]), int(match[2] or 0)
    # Redis numbers with 64 bits without a sign, SQLite with one bit less.
    if max(milliseconds, number) > _MAX_INTEGER:
        raise ValueError(f"expected a stream id with numbers of at most {_MAX_INTEGER}, got {stream_id!r}")
    return milliseconds, number


def just_before(stream_id: str) -> str:
    """The id that a read must start after to get `stream_id` itself first."""
    milliseconds, number = order_of(stream_id)
    if number > 0:
        return f"{milliseconds}-{number - 1}"
    # The largest id of the millisecond before, whether or not there ever was an event of that id.
    return f"{milliseconds - 1}-{_LAST_NUMBER}" if milliseconds > 0 else START


def gap_id(before: str) -> str:
    """Id of the gap noticed in front of event `before`."""
    return before + GAP_SUFFIX
