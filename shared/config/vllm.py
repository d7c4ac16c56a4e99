"""The settings of a student's vLLM server."""

import os
import re

import httpx2
from pydantic import Field, field_validator

from shared.config.section import OpenUrl, Positive, Section, Share
from shared.errors import reason, shown

MAX_PORT = 65535
MAX_SOCKET_BYTES = 107
"""Of the path of a unix socket; the system takes no longer one."""


class VllmSection(Section):
    """The server of a student with `engine = "vllm"`: the student starts it, or finds it by URL (docs/engines.md)."""

    python: str = Field(
        default=".venv-vllm/bin/python",
        description="Interpreter of the environment that vLLM is installed in; relative: to the project's directory.",
    )
    url: OpenUrl | None = Field(
        default=None,
        pattern=r"^(https?://[^/]+|unix:/.+)$",
        description="A server that runs already: `http://…` or `unix:/path`. Then the student starts none, and what "
        "follows, but for `max_loras` and the timeouts, is that server's own business.",
    )
    tensor_parallel_size: Positive = Field(default=1, description="GPUs that one copy of the model is split over.")
    data_parallel_size: Positive = Field(default=1, description="Copies of the model behind the one server.")
    gpu_memory_utilization: Share = Field(default=0.9, description="Share of a GPU's memory that the server takes.")
    max_model_len: Positive | None = Field(default=None, description="Tokens of a sequence; none: what the model has.")
    max_loras: Positive = Field(default=4, description="Versions in one batch: live, tutor, and what is still in use.")
    arguments: tuple[str, ...] = Field(default=(), description="Further arguments of the server's command line.")
    environment: dict[str, str] = Field(default={}, description="Further environment variables of the server.")
    start_timeout_s: float = Field(default=900.0, gt=0, description="From its start until it answers.")
    hang_timeout_s: float = Field(
        default=60.0, gt=0, description="Without an answer to a question of one token for so long, it counts as dead."
    )
    max_restarts: int = Field(default=3, ge=0, description="Within an hour; one more, and the student ends.")

    @field_validator("url")
    @classmethod
    def _can_be_asked(cls, url: str | None) -> str | None:
        if url is not None and url.startswith("unix:"):
            require_short(url.removeprefix("unix:"))
        elif url is not None:
            _require_place(url)
        return url

    @field_validator("arguments")
    @classmethod
    def _no_keys(cls, arguments: tuple[str, ...]) -> tuple[str, ...]:
        for argument in arguments:
            if argument.partition("=")[0] in ("--api-key", "--hf-token"):
                raise ValueError(f"expected no {argument.partition('=')[0]}: a command line can be read by every user")
        return arguments

    @field_validator("environment")
    @classmethod
    def _no_secrets(cls, environment: dict[str, str]) -> dict[str, str]:
        for name in environment:
            if re.search("KEY|TOKEN|SECRET|PASSWORD", name.upper()):
                raise ValueError(
                    f"expected no secret such as {name}: settings are shown, and kept in files of the run; the server "
                    "has a key of its own and reads local files only"
                )
        return environment

    @property
    def gpus(self) -> int:
        """How many GPUs the server takes where it runs on GPUs."""
        return self.tensor_parallel_size * self.data_parallel_size


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
