"""What a vLLM server can do, read off its own description of itself. Pure."""

from dataclasses import dataclass

from services.student.engines.vllm.wire import Description
from shared.errors import ConfigError
from shared.vllm import supported

ROUTES = ("/v1/completions", "/v1/models")
FIELDS = ("seed", "stop_token_ids", "return_token_ids", "return_tokens_as_token_ids", "logprob_token_ids")
"""Of a completion's request, beyond OpenAI's own."""


@dataclass(frozen=True)
class Needs:
    """What the student uses of a server, and what a server has it with."""

    routes: tuple[str, ...]
    fields: tuple[str, ...]
    started_with: str


ADAPTERS = Needs(
    (*ROUTES, "/v1/load_lora_adapter", "/v1/unload_lora_adapter"),
    FIELDS,
    "--enable-lora, VLLM_ALLOW_RUNTIME_LORA_UPDATING=1",
)
FULL = Needs((*ROUTES, "/pause", "/resume", "/collective_rpc"), (*FIELDS, "cache_salt"), "VLLM_SERVER_DEV_MODE=1")


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
