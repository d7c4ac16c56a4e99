"""Bodies of the HTTP APIs of students and broker that are not OpenAI's."""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from shared.contracts.messages import Contract, Worded
from shared.contracts.openai import Usage


class FeedbackRequest(Contract):
    """Ask a student to review `response` to `problem`. Domains default to those of the run's pair."""

    problem: Worded
    response: str
    peer_domain: str | None = None
    agent_domain: str | None = None
    seed: int | None = None


class FeedbackResponse(Contract):
    """What the student said, unfiltered; the verdict is the broker's to give."""

    raw: str
    concept: str | None
    version: str
    usage: Usage


class AskRequest(Contract):
    """A problem for the peers; `first` answers, `tutor` gives feedback, `first` answers again; as often as asked.

    Without them it is the first one by name, and of its peers the one with the best validation score.
    """

    problem: Worded
    first: str | None = None
    tutor: str | None = None
    exchanges: int | None = Field(default=None, ge=1, le=3, description="Default: 1.")
    seed: int | None = None


class Answered(Contract):
    """First stage of asking the peers."""

    stage: Literal["answer"] = "answer"
    student: str
    version: str
    text: str
    usage: Usage

    @property
    def heading(self) -> str:
        return f"{self.student} ({self.version}) answers"


class Advised(Contract):
    """Second stage, and first of an exchange. delivered: what was passed on; None with the verdict that says why."""

    stage: Literal["feedback"] = "feedback"
    exchange: int
    student: str
    version: str
    raw: str
    concept: str | None
    verdict: str
    delivered: str | None
    usage: Usage

    @property
    def heading(self) -> str:
        passed = "" if self.delivered is not None else ", not passed on"
        return f"{self.student} ({self.version}) says, on the concept {self.concept or '–'} [{self.verdict}]{passed}"


class AnsweredAgain(Contract):
    """Last stage of an exchange whose feedback was passed on."""

    stage: Literal["revised"] = "revised"
    exchange: int
    student: str
    version: str
    text: str
    usage: Usage

    @property
    def heading(self) -> str:
        return f"{self.student} ({self.version}) answers again"


Stage = Answered | Advised | AnsweredAgain
STAGE: TypeAdapter[Stage] = TypeAdapter(Annotated[Stage, Field(discriminator="stage")])
STAGES = ("answer", "feedback", "revised")
"""Names of the events that tell them."""


class Exchange(Contract):
    """revised: None where nothing was passed on, so that the answer stays as it was."""

    feedback: Advised
    revised: AnsweredAgain | None


class AskResponse(Contract):
    """All stages, and the answer that stands in the end."""

    problem: str
    answer: Answered
    exchanges: tuple[Exchange, ...]
    final: str


class PeerView(Contract):
    """One student as the broker sees it now. gap: over all domains, to the best of all. tutees: whom it may tutor by
    the last gate; cognizant: whether there are any."""

    name: str
    strong_domain: str
    version: str
    scores: dict[str, float]
    gap: float | None
    cognizant: bool | None
    tutees: tuple[str, ...] = ()
    replicas: int
    url: str | None


class PeersResponse(Contract):
    run: str
    status: str
    round: int
    peers: tuple[PeerView, ...]


class ErrorBody(Contract):
    """As OpenAI's. code: a word for programs; param: the field that is meant."""

    message: str
    type: str
    code: str | None = None
    param: str | None = None


class ErrorResponse(Contract):
    error: ErrorBody


class Readiness(Contract):
    """What /readyz answers: 200 without a reason, 503 with one."""

    status: Literal["ready", "not ready"]
    reason: str | None = None


class LoginLink(Contract):
    """A path of the inspector that begins one browser session, once, within `expires_s` seconds.

    public_url: where a browser reaches the inspector, None where that is the address which it was asked at.
    """

    path: str
    expires_s: float
    public_url: str | None = None
