"""What a vLLM server can do, read off its own description of itself. Pure."""

from collections.abc import Mapping
from typing import Any

from services.student.engines.vllm.installation import supported
from shared.errors import ConfigError

ROUTES = ("/v1/completions", "/v1/models", "/v1/load_lora_adapter", "/v1/unload_lora_adapter")
FIELDS = ("seed", "stop_token_ids", "return_token_ids", "return_tokens_as_token_ids", "logprob_token_ids")
"""Of a completion's request, beyond OpenAI's own."""


def require(version: str, description: Mapping[str, Any]) -> str:
    """The version, if everything that the student uses is there. Raises ConfigError naming what is missing.

    description: the server's /openapi.json.
    """
    supported(version)
    paths = description.get("paths", {})
    missing = [route for route in ROUTES if route not in paths]
    request = description.get("components", {}).get("schemas", {}).get("CompletionRequest", {})
    missing += [f"`{name}` of a completion" for name in FIELDS if name not in request.get("properties", {})]
    if missing:
        raise ConfigError(
            f"vLLM {version} lacks {', '.join(missing)}; it needs --enable-lora, "
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 and a release that docs/engines.md names"
        )
    return version
