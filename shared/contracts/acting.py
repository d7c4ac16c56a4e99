"""What a person asks of a run through the broker's API: pause, resume, abort; flag, exclude, silence.

`acts/<id>.json` in the run's directory keeps each act on an exchange or a tutor, done or refused, as the event that
told it (`Acted`).
"""

import re
from typing import Literal

from pydantic import Field

from shared.contracts.envelope import Message
from shared.contracts.messages import Contract, Worded

MAX_REASON_CHARS = 500
ACTS = "acts"

# A problem's id may hold dots, so step and sample are told by where they stand and the id has what lies between.
_KEY = re.compile(r"(?P<student>[^./]+)\.s(?P<step>\d{1,9})\.(?P<problem_id>.+)\.(?P<sample>\d{1,6})", re.DOTALL)


class ExchangeRef(Contract):
    """One rollout with what the tutor said of it. `key` names it in addresses: `a.s3.ether-train-004.2`."""

    student: str
    step: int = Field(ge=1)
    problem_id: str
    sample: int = Field(ge=0)

    @property
    def key(self) -> str:
        return f"{self.student}.s{self.step}.{self.problem_id}.{self.sample}"

    @classmethod
    def parse(cls, key: str) -> "ExchangeRef":
        """Raises ValueError if it names no exchange."""
        match = _KEY.fullmatch(key)
        if match is None or int(match["step"]) < 1:
            raise ValueError(f"expected an exchange such as a.s3.ether-train-004.2, got {key[:200]!r}")
        return cls(
            student=match["student"],
            step=int(match["step"]),
            problem_id=match["problem_id"],
            sample=int(match["sample"]),
        )


class ExchangeAct(Contract):
    """flag: a note for people · exclude: the feedback stays out of training. by: whose key asked, never the key."""

    id: str = Field(pattern=r"^[0-9a-f]{32}$")
    act: Literal["flag", "exclude"]
    exchange: ExchangeRef
    by: str
    reason: str = Field(min_length=1, max_length=MAX_REASON_CHARS)


class SilenceAct(Contract):
    """The tutor is not asked any more in this round. student: about whose answers; None: about nobody's."""

    id: str = Field(pattern=r"^[0-9a-f]{32}$")
    act: Literal["silence"] = "silence"
    tutor: str
    student: str | None = None
    by: str
    reason: str = Field(min_length=1, max_length=MAX_REASON_CHARS)


Act = ExchangeAct | SilenceAct


class ActAsked(Message):
    act: Act = Field(discriminator="act")

    @property
    def key(self) -> str:
        return f"act.{self.act.id}"


class ReasonRequest(Contract):
    """Body of flag and exclude."""

    reason: Worded = Field(max_length=MAX_REASON_CHARS)


class SilenceRequest(ReasonRequest):
    """student: the tutee; none: all whom the tutor speaks to."""

    tutor: str
    student: str | None = None


class Accepted(Contract):
    """It is queued. What came of an act is the event `acted` with this id."""

    accepted: str


def act_record(id_: str) -> str:
    """Where an act is kept, relative to the run's directory."""
    return f"{ACTS}/{id_}.json"


class Control(Message):
    """pause: issue nothing new · resume: go on · abort: end the run as FAILED."""

    id: str
    action: Literal["pause", "resume", "abort"]
    reason: str = Field(default="asked for", max_length=500)

    @property
    def key(self) -> str:
        return f"control.{self.id}"
