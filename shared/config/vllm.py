"""Settings of the vLLM server of a student (docs/engines.md)."""

import os
import re
from typing import Literal

import httpx2
from pydantic import Field, ValidationInfo, field_validator

from shared.config.machine import MAX_PORT
from shared.config.section import OpenUrl, Positive, Section, Share, looked_at
from shared.errors import reason, shown

# sun_path of Linux has 108 bytes, the last one for NUL.
MAX_SOCKET_BYTES = 107
"""Of the path of a unix socket; the system takes no longer one."""


def names_secret(variable: str) -> bool:
    """Whether an environment variable of that name is likely to hold a secret."""
    return re.search("KEY|TOKEN|SECRET|PASSWORD", variable.upper()) is not None


class VllmSection(Section):
    """The server of a student with `engine = "vllm"`: the student starts it, or finds it by URL (docs/engines.md)."""

    python: str = Field(
        default=".venv-vllm/bin/python",
        description="Python of the environment that vLLM is installed in; relative to the project's directory.",
    )
    url: OpenUrl | None = Field(
        default=None,
        pattern=r"^(https?://[^/]+|unix:/.+)$",
        description="A server that runs already, `http://…` or `unix:/path`; then the student starts none. Of the "
        "settings below only `max_loras` and the timeouts count then.",
    )
    tensor_parallel_size: Positive = Field(
        default=1, description="GPUs that one copy of the model is split over, for models too large for one."
    )
    data_parallel_size: Positive = Field(
        default=1,
        description="Copies of the model behind the one server, each on GPUs of its own, for more throughput.",
    )
    gpu_memory_utilization: Share | Literal["auto"] = Field(
        default="auto",
        description="Share of its GPU's memory that the server takes. `auto`: what the plan of that memory leaves it "
        "beside a trainer or another server (docs/scaling.md).",
    )
    kv_cache_memory_bytes: Positive | None = Field(
        default=None,
        description="Memory for the cache of keys and values on each GPU. None: as planned where "
        "`gpu_memory_utilization` is `auto`, else what the server finds free within its share.",
    )
    max_model_len: Positive | None = Field(
        default=None,
        description="Tokens of the longest sequence, prompt and answer together, of people's chats too. None: on a "
        "GPU what the run's longest one needs, elsewhere what the model has.",
    )
    max_loras: Positive = Field(
        default=4,
        description="Versions (adapters) that can be in one batch: the live one, the tutor, and older ones still in "
        "use. Each takes memory.",
    )
    arguments: tuple[str, ...] = Field(
        default=(),
        description='Further arguments of the server, name and value apart: `["--block-size", "32"]`. Those that '
        "other settings decide are refused.",
    )
    environment: dict[str, str] = Field(
        default={}, description="Further environment variables of the server; secrets are refused."
    )
    start_timeout_s: float = Field(
        default=900.0, gt=0, description="Longest time from the server's start until it answers."
    )
    hang_timeout_s: float = Field(
        default=60.0,
        gt=0,
        description="A server that for so long does not answer a question of one token is ended and started again.",
    )
    max_restarts: int = Field(
        default=3, ge=0, description="Restarts of the server within an hour; if it needs one more, the student ends."
    )

    @field_validator("url")
    @classmethod
    def _can_be_asked(cls, url: str | None, info: ValidationInfo) -> str | None:
        if looked_at(info):
            return url
        if url is not None and url.startswith("unix:"):
            require_short(url.removeprefix("unix:"))
        elif url is not None:
            _require_place(url)
        return url

    @field_validator("arguments")
    @classmethod
    def _nothing_that_is_told(cls, arguments: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if looked_at(info):
            return arguments
        for argument in arguments:
            name = argument.partition("=")[0]
            if name.startswith("-") and len(words := name.split()) > 1:
                raise ValueError(
                    f"expected a name and its value as two arguments, got {words[0]} with a space behind it"
                )
            if (taken := _told_otherwise(name)) is not None:
                raise ValueError(f"expected no {name}: {TOLD_OTHERWISE[taken]}")
        return arguments

    @field_validator("environment")
    @classmethod
    def _no_secrets(cls, environment: dict[str, str]) -> dict[str, str]:
        for name in environment:
            if names_secret(name):
                raise ValueError(
                    f"expected no secret such as {name}: settings are shown, and kept in files of the run; the server "
                    "has a key of its own and reads local files only"
                )
        return environment

    @property
    def gpus(self) -> int:
        """How many GPUs the server takes where it runs on GPUs."""
        return self.tensor_parallel_size * self.data_parallel_size


_SEEN = "a command line can be read by every user"
_DRAWN = "each request says how it is drawn from, and log-probs are to be those of the drawing"
_SOCKET = "the student reaches its server on a socket of its own; name one that runs already as vllm.url"
_PLANNED = "it would not be planned with; set students.<name>"
TOLD_OTHERWISE = {
    "--api-key": _SEEN,
    "--hf-token": _SEEN,
    "--logprobs-mode": _DRAWN,
    "--generation-config": _DRAWN,
    "--override-generation-config": _DRAWN,
    **dict.fromkeys(("--uds", "--host", "--port", "--root-path", "--ssl-keyfile", "--ssl-certfile"), _SOCKET),
    "--model": "it is the student's; set students.<name>.model",
    "--served-model-name": "the student has given it one",
    "--dtype": f"{_PLANNED}.dtype",
    "--seed": "it follows from run.seed",
    "--max-num-seqs": f"{_PLANNED}.slots",
    "--max-model-len": f"{_PLANNED}.vllm.max_model_len",
    "--gpu-memory-utilization": f"{_PLANNED}.vllm.gpu_memory_utilization",
    "--device-memory-utilization": f"{_PLANNED}.vllm.gpu_memory_utilization",
    "--kv-cache-memory-bytes": f"{_PLANNED}.vllm.kv_cache_memory_bytes",
    "--tensor-parallel-size": f"{_PLANNED}.vllm.tensor_parallel_size",
    "--data-parallel-size": f"{_PLANNED}.vllm.data_parallel_size",
    "--pipeline-parallel-size": f"{_PLANNED}.vllm.tensor_parallel_size",
    "--api-server-count": "of several servers none would load an adapter",
    "--enable-lora": "it follows from run.weights",
    "--max-loras": f"{_PLANNED}.vllm.max_loras",
    "--max-lora-rank": "it follows from lora.rank",
    "--enable-sleep-mode": "it follows from resources.turns",
    "--disable-log-stats": "its count of tokens tells a server that is busy from one that hangs",
    "--disable-fastapi-docs": "the student reads there what the server can do",
}
"""Why an option of vLLM's, which would win over ours, may not stand in `arguments`."""

_SHORT = {
    "-tp": "--tensor-parallel-size",
    "-dp": "--data-parallel-size",
    "-pp": "--pipeline-parallel-size",
    "-asc": "--api-server-count",
}


def _told_otherwise(name: str) -> str | None:
    """The option among those that vLLM takes `name` for: with underscores, switched off, or cut short."""
    if not name.startswith("--"):
        return _SHORT.get(name)
    option = name.replace("_", "-").replace("--no-", "--", 1)
    return next((each for each in TOLD_OTHERWISE if len(option) > len("--") and each.startswith(option)), None)


def _require_place(url: str) -> None:
    """Raises ValueError if HTTP cannot be spoken there: the client that will be asked says so."""
    try:
        found = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise ValueError(f"expected a URL such as http://127.0.0.1:8000: {reason(error)}") from error
    off_range = found.port is not None and not 0 < found.port <= MAX_PORT
    if not found.host or off_range or found.query or found.fragment:
        raise ValueError(f"expected host and port alone, such as http://127.0.0.1:8000, got {shown(url)}")


def require_short(socket: str) -> None:
    """Raises ValueError if no unix socket can have this path."""
    size = len(os.fsencode(socket))
    if size > MAX_SOCKET_BYTES:
        raise ValueError(f"expected a path of at most {MAX_SOCKET_BYTES} bytes for a unix socket, got {size}: {socket}")
