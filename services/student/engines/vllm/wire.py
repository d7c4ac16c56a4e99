"""What vLLM's routes answer, as far as it is used; everything else in an answer is left alone."""

import math
from typing import Annotated, Literal

from pydantic import AliasPath, BaseModel, BeforeValidator, ConfigDict, Field


def _number(value: object) -> object:
    return math.nan if value is None else value


Logprob = Annotated[float, BeforeValidator(_number)]
"""NaN where the server has none, which is how its stream writes one that is not finite."""


TokenId = Annotated[int, Field(ge=0, lt=2**32)]
"""As tokenizers number them; a greater one overflows there."""

TokenName = Annotated[str, Field(pattern=r"^token_id:[0-9]{1,9}$")]


class Answer(BaseModel):
    """vLLM adds fields from release to release."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class ServerLogprobs(Answer):
    """token_logprobs: of the sampled ids. top_logprobs: by `token_id:<n>`, of the ids that were asked for."""

    token_logprobs: list[Logprob] = Field(default_factory=list)
    top_logprobs: list[dict[TokenName, Logprob]] = Field(default_factory=list)


class ServerChoice(Answer):
    """One sequence, or more of one that is streamed; None goes on; `abort`: the server dropped it."""

    index: int = 0
    token_ids: list[TokenId] = Field(default_factory=list)
    logprobs: ServerLogprobs | None = None
    finish_reason: Literal["stop", "length", "abort", "error"] | None = None

    @property
    def token_logprobs(self) -> list[float]:
        return [] if self.logprobs is None else self.logprobs.token_logprobs

    @property
    def top_logprobs(self) -> list[dict[str, float]]:
        return [] if self.logprobs is None else self.logprobs.top_logprobs


class Completion(Answer):
    choices: list[ServerChoice]


class ServedModel(Answer):
    """The base model, or a version (then `root` is its directory)."""

    id: str
    root: str | None = None
    parent: str | None = None
    max_model_len: int | None = None


class ServedModels(Answer):
    data: list[ServedModel]


class Version(Answer):
    version: str


class Description(Answer):
    """/openapi.json: the server's routes, and the fields that a completion may have."""

    paths: dict[str, object] = Field(default_factory=dict)
    completion: dict[str, object] = Field(
        default_factory=dict,
        validation_alias=AliasPath("components", "schemas", "CompletionRequest", "properties"),
    )
