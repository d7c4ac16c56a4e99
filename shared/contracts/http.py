"""Bodies of the HTTP APIs of students and broker; chat follows OpenAI's shapes."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from shared.contracts.messages import ChatMessage, Contract


class ChatRequest(BaseModel):
    """OpenAI chat completion request; what we do not know is refused with its name."""

    model_config = ConfigDict(extra="forbid")

    model: str
    messages: tuple[ChatMessage, ...] = Field(min_length=1)
    n: int = Field(default=1, ge=1, le=16)
    temperature: float | None = Field(default=None, ge=0, le=5)
    top_p: float | None = Field(default=None, gt=0, le=1)
    max_tokens: int | None = Field(default=None, ge=1)
    seed: int | None = None
    stop: str | list[str] | None = None
    logprobs: bool = False
    stream: Literal[False] = False
    user: str | None = None


class TokenLogprob(Contract):
    token: str
    logprob: float


class ChoiceLogprobs(Contract):
    content: tuple[TokenLogprob, ...]


class Choice(Contract):
    index: int
    message: ChatMessage
    finish_reason: Literal["stop", "length"]
    logprobs: ChoiceLogprobs | None = None


class Usage(Contract):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatResponse(Contract):
    """`model` is the exact version that answered."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: tuple[Choice, ...]
    usage: Usage


class ModelCard(Contract):
    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "opcod"
    checksum: str | None = None


class ModelList(Contract):
    object: Literal["list"] = "list"
    data: tuple[ModelCard, ...]


class FeedbackRequest(Contract):
    """Ask a student to review `response` to `problem`. Domains default to those of the run's pair."""

    problem: str = Field(min_length=1)
    response: str
    peer_domain: str | None = None
    agent_domain: str | None = None
    seed: int | None = None


class FeedbackResponse(Contract):
    """What the student said, unfiltered; the verdict is the broker's to give."""

    raw: str
    concept: str | None
    version: str


class AskRequest(Contract):
    """A problem for the peers; `first` answers, the other gives feedback, `first` answers again."""

    problem: str = Field(min_length=1)
    first: str | None = None
    seed: int | None = None


class AskResponse(Contract):
    """One exchange. feedback is what was delivered; None with the verdict that says why not."""

    problem: str
    first: str
    first_version: str
    answer: str
    tutor: str
    tutor_version: str
    feedback_raw: str
    concept: str | None
    verdict: str
    feedback: str | None
    revised: str | None


class PeerView(Contract):
    """One student as the broker sees it now."""

    name: str
    strong_domain: str
    version: str
    scores: dict[str, float]
    gap: float | None
    cognizant: bool | None
    replicas: int
    url: str | None


class PeersResponse(Contract):
    run: str
    status: str
    round: int
    peers: tuple[PeerView, ...]


class ErrorBody(Contract):
    message: str
    type: str
    code: str | None = None
    param: str | None = None


class ErrorResponse(Contract):
    error: ErrorBody


class LoginLink(Contract):
    """A path of the inspector that begins one browser session, once, within `expires_s` seconds."""

    path: str
    expires_s: float
