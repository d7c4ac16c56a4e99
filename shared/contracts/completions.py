"""OpenAI's older completions, of a plain text or of token ids: what evaluation programs score answers with.

A field that would change the answer in a way that is not done here is refused by its name, as in `openai`.
"""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, JsonValue, Tag, ValidationInfo, field_validator, model_validator

from shared.contracts.messages import Contract
from shared.contracts.openai import (
    MAX_TOP_LOGPROBS,
    Incoming,
    Stops,
    Usage,
    neutral,
    nucleus,
    require_stops,
    stop_texts,
)

MAX_SEQUENCES = 64
"""Prompts times choices of one request."""

MAX_STOPS = 16
"""More than OpenAI takes: some tasks of evaluation programs name as many."""

USUAL_TOKENS = 16
"""OpenAI's limit where a request names none."""

NEUTRAL: dict[str, tuple[object, ...]] = {
    "best_of": (1,),
    "suffix": ("",),
    "stream": (False,),
    "stream_options": (),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
}
"""Fields of a request that may only be absent, null or one of these."""


def _form(value: object) -> str | None:
    """Which of the four forms a prompt may be; None for anything else."""
    if isinstance(value, str):
        return "text"
    if not isinstance(value, list | tuple) or not value:
        return None
    first = value[0]
    if isinstance(first, list | tuple):
        return "lists of ids"
    return "texts" if isinstance(first, str) else "ids"


TokenIds = Annotated[tuple[Annotated[int, Field(ge=0, lt=2**32, strict=True)], ...], Field(min_length=1)]
Text = Annotated[str, Field(min_length=1)]
Prompt = Annotated[
    Annotated[Text, Tag("text")]
    | Annotated[TokenIds, Tag("ids")]
    | Annotated[tuple[Text, ...], Tag("texts")]
    | Annotated[tuple[TokenIds, ...], Tag("lists of ids")],
    Discriminator(
        _form,
        custom_error_type="prompt",
        custom_error_message="expected a text, a list of token ids, or a list of several of either",
    ),
]


class CompletionRequest(Incoming):
    """echo: the prompt stands before the answer, and with logprobs its tokens are scored, too."""

    model: str
    prompt: Prompt
    n: int | None = Field(default=None, ge=1, le=16)
    echo: bool | None = None
    logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)
    max_tokens: int | None = Field(default=None, ge=0, description="0: the prompt alone, with echo.")
    temperature: float | None = Field(default=None, ge=0, le=5)
    top_p: float | None = Field(default=None, ge=0, le=1)
    seed: int | None = None
    stop: Stops | None = None
    user: str | None = None  # not read
    # Only if they change nothing
    best_of: JsonValue = None
    suffix: JsonValue = None
    stream: JsonValue = None
    stream_options: JsonValue = None
    frequency_penalty: JsonValue = None
    presence_penalty: JsonValue = None
    logit_bias: JsonValue = None

    @field_validator(*NEUTRAL, mode="before")
    @classmethod
    def _changes_nothing(cls, value: object, info: ValidationInfo) -> object:
        return neutral(value, NEUTRAL[str(info.field_name)])

    @model_validator(mode="after")
    def _consistent(self) -> "CompletionRequest":
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens: 0 draws nothing, so it is only for echo")
        if len(self.prompts) * self.choices > MAX_SEQUENCES:
            raise ValueError(f"prompt: at most {MAX_SEQUENCES} prompts times n in one request; send several")
        require_stops(self.stops, MAX_STOPS)
        return self

    @property
    def prompts(self) -> tuple[str | tuple[int, ...], ...]:
        """One or more, each a text or its ids."""
        first = self.prompt[0]
        single = isinstance(self.prompt, str) or isinstance(first, int)
        return (self.prompt,) if single else self.prompt  # type: ignore[return-value]

    @property
    def choices(self) -> int:
        return self.n or 1

    @property
    def nucleus(self) -> float | None:
        """`top_p` as engines take it."""
        return nucleus(self.top_p)

    @property
    def stops(self) -> tuple[str, ...]:
        return stop_texts(self.stop)

    @property
    def token_limit(self) -> int | None:
        """Of what is drawn, and where nothing is to be given still one token is."""
        return USUAL_TOKENS if self.max_tokens is None else max(1, self.max_tokens)

    @property
    def limit_name(self) -> str:
        return "max_tokens"


class CompletionLogprobs(Contract):
    """One entry a token, of the prompt first where it is echoed; its very first token has no log-prob.

    text_offset: where the token begins in the choice's text, in characters. top_logprobs: by the token's text, itself
    always among them.
    """

    tokens: tuple[str, ...]
    token_logprobs: tuple[float | None, ...]
    top_logprobs: tuple[dict[str, float] | None, ...]
    text_offset: tuple[int, ...]


class CompletionChoice(Contract):
    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: Literal["stop", "length"]


class CompletionResponse(Contract):
    """Choices by prompt, then by n. `model` and `system_fingerprint` as in a chat's answer."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: tuple[CompletionChoice, ...]
    usage: Usage
    system_fingerprint: str | None = None
