"""What is used of vLLM's HTTP: what a server must be able to do, and what its routes answer. Pure.

Everything else in an answer is left alone.
"""

import math
import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AliasPath, BaseModel, BeforeValidator, ConfigDict, Field

from shared.errors import ConfigError
from shared.vllm import supported

ROUTES = ("/v1/completions", "/v1/models")
FIELDS = ("seed", "stop_token_ids", "return_token_ids", "return_tokens_as_token_ids", "logprob_token_ids")
"""Of a completion's request, beyond OpenAI's own."""

AS_IDS = {"return_token_ids": True, "return_tokens_as_token_ids": True}
"""In every completion's request: tokens come as ids, also in the lists of log-probs, which otherwise go by texts, and
several tokens may have the same text."""


@dataclass(frozen=True)
class Needs:
    """What the student uses of a server, and what a server has it with. marked: it is told a name for the weights that
    it has, and asked for it."""

    routes: tuple[str, ...]
    fields: tuple[str, ...]
    started_with: str
    marked: bool = False


ADAPTERS = Needs(
    (*ROUTES, "/v1/load_lora_adapter", "/v1/unload_lora_adapter"),
    FIELDS,
    "--enable-lora, VLLM_ALLOW_RUNTIME_LORA_UPDATING=1",
)
SLEEPING = Needs(
    (*ADAPTERS.routes, "/sleep", "/wake_up"),
    FIELDS,
    f"{ADAPTERS.started_with}, --enable-sleep-mode, VLLM_SERVER_DEV_MODE=1",
)
"""Of one that shares its GPU."""

FOUND_FULL = Needs(
    (*ROUTES, "/pause", "/resume", "/collective_rpc", "/update_weight_version", "/weight_info"),
    (*FIELDS, "cache_salt"),
    "VLLM_SERVER_DEV_MODE=1",
    marked=True,
)
"""Of a server that somebody else starts, and may start again: a mark of ours is what such a server has lost."""

FULL = Needs((*ROUTES, "/pause", "/resume", "/collective_rpc"), (*FIELDS, "cache_salt"), "VLLM_SERVER_DEV_MODE=1")


def _number(value: object) -> object:
    return math.nan if value is None else value


Logprob = Annotated[float, BeforeValidator(_number)]
"""NaN where the server has none, which is how its stream writes one that is not finite."""


TokenId = Annotated[int, Field(ge=0, lt=2**32)]
"""As tokenizers number them; a greater one overflows there."""

TokenName = Annotated[str, Field(pattern=r"^token_id:[0-9]{1,9}$")]


class Answer(BaseModel):
    """vLLM adds fields from release to release."""

    # Unlike our own contracts, which forbid unknown fields.
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


class StreamPart(Completion):
    """Of a stream. Where something fails in the middle of one, its status has been sent long ago."""

    choices: list[ServerChoice] = Field(default_factory=list)
    error: object = None


class ServedModel(Answer):
    """The base model, or a version (then `root` is its directory)."""

    id: str
    root: str | None = None
    parent: str | None = None
    max_model_len: int | None = None


class ServedModels(Answer):
    data: list[ServedModel]


class WeightInfo(Answer):
    """The name that the weights in it were given, of no meaning to the server; its own default after a start."""

    weight_version: str


class Version(Answer):
    version: str


class Description(Answer):
    """/openapi.json: the server's routes, and the fields that a completion may have."""

    paths: dict[str, object] = Field(default_factory=dict)
    completion: dict[str, object] = Field(
        default_factory=dict,
        validation_alias=AliasPath("components", "schemas", "CompletionRequest", "properties"),
    )


_GAUGE = re.compile(r"^vllm:num_requests_(?P<name>running|waiting)\{(?P<labels>.*)\} (?P<value>[0-9.]+)$", re.MULTILINE)
_ENGINE = re.compile(r'engine="([0-9]{1,9})"')


@dataclass(frozen=True)
class ServerLoad:
    """Requests that run or wait in a server, None where it does not say; copies of the model behind it, at least 1."""

    requests: float | None
    copies: int


def server_load(metrics: str) -> ServerLoad:
    """Out of a server's /metrics."""
    gauges = list(_GAUGE.finditer(metrics))
    both = {gauge["name"] for gauge in gauges} == {"running", "waiting"}
    engines = {int(found[1]) for gauge in gauges if (found := _ENGINE.search(gauge["labels"]))}
    # A server that has a part of the copies numbers them from another one on, and is asked for none by such a number.
    copies = len(engines) if engines == set(range(len(engines))) else 1
    return ServerLoad(sum(float(gauge["value"]) for gauge in gauges) if both else None, max(1, copies))


def require(version: str, description: Description, needs: Needs) -> str:
    """The version, if everything that the student uses is there. Raises ConfigError naming what is missing."""
    supported(version)
    missing = [route for route in needs.routes if route not in description.paths]
    missing += [f"`{name}` of a completion" for name in needs.fields if name not in description.completion]
    if missing:
        raise ConfigError(
            f"vLLM {version} lacks {', '.join(missing)}; it needs {needs.started_with} and a release that "
            "docs/engines.md names"
        )
    return version
