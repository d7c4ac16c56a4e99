"""OpenAI's chat completions and models, as students and broker speak them.

A field of OpenAI's that changes no answer is taken and left unread; one that would change the answer in a way that is
not done here must be absent or neutral; anything else is refused with its name.
"""

from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    Tag,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic import SerializerFunctionWrapHandler as Serializer

from shared.contracts.messages import ChatMessage, Contract

# 4 and 20 are OpenAI's own, so that a client that works there works here.
MAX_STOPS = 4
MAX_NAME_CHARS = 60
MAX_TOP_LOGPROBS = 20
LEAST_TOP_P = 1e-6
"""What 0 stands for, which OpenAI takes and engines do not: the most probable token alone."""

NEUTRAL: dict[str, tuple[object, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    "moderation": (),
}
"""Fields of a request that may only be absent, null or one of these: they change nothing then."""


def neutral(value: object, allowed: tuple[object, ...]) -> object:
    """The value of a field that changes nothing. Raises ValueError for any other."""
    if value is None or value in allowed:
        return value
    raise ValueError(f"this is not done here: leave it out{f' or send {allowed[0]!r}' if allowed else ''}")


class Incoming(BaseModel):
    """Base of what clients send."""

    # Refused by name and not ignored: a client that counts on a field must learn that it does nothing here.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _form(value: object) -> str | None:
    """Of what may be a text or a list; None for anything else."""
    return "text" if isinstance(value, str) else "list" if isinstance(value, list | tuple) else None


class TextPart(Incoming):
    """A part of a message's content; parts of other types (images, sound) are refused."""

    type: Literal["text"]
    text: str
    prompt_cache_breakpoint: JsonValue = None  # not read

    @field_validator("type", mode="before")
    @classmethod
    def _only_text(cls, value: object) -> object:
        if isinstance(value, str) and value != "text":
            raise ValueError(f"only text parts are taken, got {value[:MAX_NAME_CHARS]}")
        return value


Content = Annotated[
    Annotated[str, Tag("text")] | Annotated[tuple[TextPart, ...], Tag("list")],
    Discriminator(_form, custom_error_type="content", custom_error_message="expected a text or a list of text parts"),
]
Stops = Annotated[
    Annotated[str, Tag("text")] | Annotated[tuple[str, ...], Tag("list")],
    Discriminator(_form, custom_error_type="stop", custom_error_message="expected a text or a list of texts"),
]


def stop_texts(stop: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (stop,) if isinstance(stop, str) else stop or ()


def require_stops(stops: tuple[str, ...], most: int = MAX_STOPS) -> None:
    """Raises ValueError for too many, or an empty one."""
    if len(stops) > most or not all(stops):
        raise ValueError(f"stop: at most {most} strings, none of them empty")


def nucleus(top_p: float | None) -> float | None:
    """`top_p` as engines take it."""
    return None if top_p is None else max(top_p, LEAST_TOP_P)


class IncomingMessage(Incoming):
    """One turn. `developer` is OpenAI's newer word for `system`; `name` is not read."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Content
    name: str | None = None
    # What a client sends back of an answer that it got
    refusal: JsonValue = None
    annotations: JsonValue = None
    audio: JsonValue = None
    function_call: JsonValue = None
    tool_calls: JsonValue = None

    @field_validator("refusal", "annotations", "audio", "function_call", "tool_calls", mode="before")
    @classmethod
    def _empty(cls, value: object) -> object:
        return neutral(value, ([],))

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)

    def turn(self) -> ChatMessage:
        return ChatMessage(role="system" if self.role == "developer" else self.role, content=self.text)


class StreamOptions(Incoming):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None  # not read


class JsonSchema(Incoming):
    name: str
    schema_: dict[str, JsonValue] | None = Field(default=None, alias="schema")
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(Incoming):
    """How the text must look. Schemas need an engine that can keep to them."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "ResponseFormat":
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("expected json_schema with the type 'json_schema' and with no other")
        return self


class ChatRequest(Incoming):
    """A chat completion request."""

    model: str
    messages: tuple[IncomingMessage, ...] = Field(min_length=1)
    n: int | None = Field(default=None, ge=1, le=16)
    temperature: float | None = Field(default=None, ge=0, le=5)
    top_p: float | None = Field(default=None, ge=0, le=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    max_tokens: int | None = Field(default=None, ge=1, description="The older name of max_completion_tokens.")
    seed: int | None = None
    stop: Stops | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)
    response_format: ResponseFormat | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # Not read
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: JsonValue = None
    service_tier: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    parallel_tool_calls: bool | None = None
    # Only if they change nothing
    frequency_penalty: JsonValue = None
    presence_penalty: JsonValue = None
    logit_bias: JsonValue = None
    tools: JsonValue = None
    tool_choice: JsonValue = None
    functions: JsonValue = None
    function_call: JsonValue = None
    modalities: JsonValue = None
    reasoning_effort: JsonValue = None
    verbosity: JsonValue = None
    audio: JsonValue = None
    prediction: JsonValue = None
    web_search_options: JsonValue = None
    moderation: JsonValue = None

    @field_validator(*NEUTRAL, mode="before")
    @classmethod
    def _changes_nothing(cls, value: object, info: ValidationInfo) -> object:
        return neutral(value, NEUTRAL[str(info.field_name)])

    @model_validator(mode="after")
    def _consistent(self) -> "ChatRequest":
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options: only with stream")
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs: only with logprobs")
        if None not in (limits := (self.max_completion_tokens, self.max_tokens)) and limits[0] != limits[1]:
            raise ValueError("max_tokens: is the older name of max_completion_tokens; send one of them")
        require_stops(self.stops)
        return self

    @property
    def choices(self) -> int:
        return self.n or 1

    @property
    def nucleus(self) -> float | None:
        """`top_p` as engines take it."""
        return nucleus(self.top_p)

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def stops(self) -> tuple[str, ...]:
        return stop_texts(self.stop)

    @property
    def token_limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def limit_name(self) -> str:
        """Of the field that says it."""
        return "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"

    @property
    def alternatives(self) -> int | None:
        """How many alternatives to each token; None where no log-probs are asked for."""
        return self.top_logprobs or 0 if self.logprobs else None


class TopLogprob(Contract):
    """token: the text of `bytes`, in which what is no whole character shows as U+FFFD."""

    # OpenAI's clients take null for a number that is missing, and no string
    model_config = ConfigDict(ser_json_inf_nan="null")

    token: str
    logprob: float
    bytes: tuple[int, ...]


class TokenLogprob(TopLogprob):
    top_logprobs: tuple[TopLogprob, ...]


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


def usage_of(prompt_tokens: int, completion_tokens: int) -> Usage:
    total = prompt_tokens + completion_tokens
    return Usage(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, total_tokens=total)


class ChatResponse(Contract):
    """`model` is the exact version that answered, `system_fingerprint` the checksum of its tensors."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: tuple[Choice, ...]
    usage: Usage
    system_fingerprint: str | None = None


class Delta(Contract):
    """What is new of a message; what is not new is not in the JSON."""

    role: Literal["assistant"] | None = None
    content: str | None = None

    @model_serializer(mode="wrap")
    def _without_nothing(self, serializer: Serializer) -> dict[str, str]:
        # Clients add up what comes: a null would be added as well.
        return {name: value for name, value in serializer(self).items() if value is not None}


class ChunkChoice(Contract):
    index: int
    delta: Delta
    logprobs: ChoiceLogprobs | None = None
    finish_reason: Literal["stop", "length"] | None = None


class ChatChunk(Contract):
    """A piece of a streamed answer; the last one, if asked for, has the usage and no choice."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: tuple[ChunkChoice, ...]
    usage: Usage | None = None
    system_fingerprint: str | None = None


class ModelCard(Contract):
    """checksum: of the version's tensors; None for `peers`."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "opcod"
    checksum: str | None = None


class ModelList(Contract):
    object: Literal["list"] = "list"
    data: tuple[ModelCard, ...]
