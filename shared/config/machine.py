"""Settings of what a run uses of its machine: Redis, the vLLM server, ports, threads, disk and GPUs.

None of them changes what is trained, but for rounding.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Literal, Self

import httpx2
from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from shared.bus.redis_url import names_password, with_password
from shared.config.section import OpenUrl, Positive, Section, Share, looked_at
from shared.errors import ConfigError, reason, shown
from shared.files.text import expanded
from shared.http.access import Limits


def _without_password(url: object) -> object:
    """Before anything else looks at it: other refusals show what came."""
    try:
        secret = isinstance(url, str) and names_password(url)
    except ConfigError as error:
        raise ValueError(str(error)) from None
    if secret:
        raise ValueError(
            "expected a URL without a password, which would stand in files of the run; write it to a file that only "
            "you can read, and name that in bus.password_file"
        )
    return url


class BusSection(Section):
    """Redis and the leases on its queues."""

    url: Annotated[str, BeforeValidator(_without_password)] | None = Field(
        default=None,
        description="redis://…, with the user's name where Redis knows one; none = an embedded server of the "
        "launcher's.",
    )
    password_file: Path | None = Field(default=None, description="The password that goes with `url`.")
    lease_s: float = Field(default=60.0, gt=0)
    leader_lease_s: float = Field(default=10.0, gt=0, description="The broker's own lease.")
    max_attempts: Positive = 3
    deadline_s: float = Field(default=10.0, gt=0, description="No single call waits longer for the server.")
    heartbeat_s: float = Field(default=2.0, gt=0)

    @model_validator(mode="after")
    def _password_of_something(self, info: ValidationInfo) -> Self:
        if self.password_file is not None and self.url is None and not looked_at(info):
            raise ValueError("password_file: the embedded server has no password; name bus.url, or leave it out")
        return self

    def secret_url(self) -> str | None:
        """`url` with the password of the file, if one is named. Raises ConfigError if that cannot be read."""
        if self.url is None or self.password_file is None:
            return self.url
        return with_password(self.url, expanded(self.password_file))


MOST_THREADS = 8
"""Beside a GPU: what there is to do is bound by the memory, which more cores make no faster."""


class ResourcesSection(Section):
    """What the processes may use on this machine."""

    threads: Positive | Literal["auto"] = Field(
        default="auto",
        description="Threads of each model process; never more than cores in all. `auto`: 1 where it computes on a "
        "CPU, as sums over another number round otherwise; beside a GPU an even share of the cores, 8 at most, which "
        "look through weights and move them: for as many processes as the run has students, with their replicas, and "
        "trainers, on whatever nodes they are.",
    )
    min_free_disk_bytes: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        default="auto",
        description="Under the runs directory when a run begins or goes on. `auto`: what its batches, versions and "
        "checkpoints come to at most (`opcod run --dry-run`), less what of it is there, and 2 GB; where models and "
        "specialists are kept, what of them is not there yet, too.",
    )
    gpus: dict[str, tuple[int, ...]] | None = Field(
        default=None,
        description="GPUs by service, of all that use one: `{ student-a = [0], student-b = [1], trainer-a = [2], "
        "trainer-b = [3] }`, counted on each node; a student's further replicas are `student-a-1` and so on; none: "
        "`opcod run` shares out what is there (docs/engines.md).",
    )
    turns: bool = Field(
        default=False,
        description="One GPU for all: engines and trainers work there one at a time, in the order in which they ask, "
        "and keep what they hold in the host's memory meanwhile. For engines on vLLM that their students start, and "
        "adapters (docs/scaling.md).",
    )
    nodes: Positive = Field(
        default=1, description="Machines that the run is on; on each but the first `opcod join` starts what is there."
    )
    placement: dict[str, tuple[int, ...]] | None = Field(
        default=None,
        description="Nodes by service, from 0: `{ student-a = [0], student-b = [0], trainer-a = [1, 2], trainer-b = "
        "[1, 2] }`; a student's further replicas are `student-a-1` and so on; a trainer's ranks are shared out over "
        "its nodes. None: students and then trainers, in turn over all nodes (docs/cluster.md).",
    )

    @field_validator("gpus")
    @classmethod
    def _each_once(
        cls, gpus: dict[str, tuple[int, ...]] | None, info: ValidationInfo
    ) -> dict[str, tuple[int, ...]] | None:
        for service, cards in (gpus or {}).items():
            if len(set(cards)) < len(cards) and not looked_at(info):
                raise ValueError(f"{service}: expected each GPU once, got {list(cards)}")
        return gpus

    @model_validator(mode="after")
    def _placed_on_nodes(self, info: ValidationInfo) -> Self:
        if looked_at(info):
            return self
        for service, nodes in (self.placement or {}).items():
            if not nodes or len(set(nodes)) < len(nodes) or not all(0 <= node < self.nodes for node in nodes):
                raise ValueError(
                    f"placement: {service}: expected nodes out of 0 to {self.nodes - 1} (resources.nodes = "
                    f"{self.nodes}), each once, got {list(nodes)}"
                )
        return self

    def threads_on(self, device: str, cores: int, *, processes: int) -> int:
        """As `RunSettings.threads_on`. processes: how many compute on this machine."""
        if self.threads != "auto":
            return self.threads
        return min(MOST_THREADS, max(1, cores // processes)) if device == "cuda" else 1


def cores_here() -> int:
    """Cores that this process may use, which a batch system or a container may have made fewer than there are."""
    return len(os.sched_getaffinity(0))


class TrainerSection(Section):
    """How a trainer uses its device, and so does what fine-tunes a specialist."""

    ranks: Positive = Field(
        default=1,
        description="Processes that share a trainer's work, each on a GPU of its own. Full weights are shared out over "
        "them, with all that training keeps of them; an adapter is whole on each. The weights come out the same but "
        "for rounding. `OPCOD_RANKS` says the same (docs/scaling.md).",
    )
    rank_timeout_s: float = Field(
        default=600.0, gt=0, description="No rank waits longer for another one; then the trainer begins again."
    )
    recompute: Literal["auto", True, False] = Field(
        default="auto",
        description="Keep of every block its input alone, and make its pass again in the backward pass: a third more "
        "time for a fraction of the memory. `auto`: on a GPU, not on a CPU. The weights come out the same.",
    )
    deterministic: Literal["auto", True, False] = Field(
        default="auto",
        description="Only algorithms of torch that give the same bits each time, some 5 to 10 % slower on a GPU; an "
        "operation that has none ends the trainer with an error that names it. Without them a step that is made again, "
        "and `opcod replay`, come out the same but for rounding. `auto`: on a GPU; a CPU repeats itself anyway.",
    )

    def recomputes(self, device: str) -> bool:
        """device: "cuda" or "cpu"."""
        return device == "cuda" if self.recompute == "auto" else self.recompute

    def repeats(self, device: str) -> bool:
        """Whether torch is held to algorithms that repeat. device: "cuda" or "cpu"."""
        return device == "cuda" if self.deterministic == "auto" else self.deterministic


class RetentionSection(Section):
    """Versions that keep their tensors; the others keep their manifest, and a replay makes them again."""

    keep_last: int = Field(
        default=0,
        ge=0,
        description="Newest versions of each student that stay, at least 2; 0: all. The live version, tutors and the "
        "version with the best validation score always stay.",
    )
    keep_every: int = Field(default=0, ge=0, description="Beside them every version whose step this divides; 0: none.")

    @field_validator("keep_last")
    @classmethod
    def _room_for_who_lags(cls, value: int) -> int:
        if value == 1:
            raise ValueError("expected 0 (all) or at least 2: a replica may still serve the version before the newest")
        return value


def names_secret(variable: str) -> bool:
    """Whether an environment variable of that name is likely to hold a secret."""
    return re.search("KEY|TOKEN|SECRET|PASSWORD", variable.upper()) is not None


MAX_PORT = 65535

# sun_path of Linux has 108 bytes, the last one for NUL.
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
    gpu_memory_utilization: Share | Literal["auto"] = Field(
        default="auto",
        description="Share of a GPU's memory that the server takes. `auto`: what the plan of that memory leaves it "
        "beside a trainer or another server (docs/scaling.md).",
    )
    kv_cache_memory_bytes: Positive | None = Field(
        default=None,
        description="Of keys and values, on each GPU; none: as planned where `gpu_memory_utilization` is `auto`, else "
        "what the server finds free within it.",
    )
    max_model_len: Positive | None = Field(
        default=None,
        description="Tokens of a sequence; none: on a GPU what the run's longest one needs, elsewhere what the model "
        "has. A person's chat has no more either.",
    )
    max_loras: Positive = Field(default=4, description="Versions in one batch: live, tutor, and what is still in use.")
    arguments: tuple[str, ...] = Field(
        default=(),
        description="Further arguments of the server's command line, name and value each for itself; none that other "
        "settings decide.",
    )
    environment: dict[str, str] = Field(default={}, description="Further environment variables of the server.")
    start_timeout_s: float = Field(default=900.0, gt=0, description="From its start until it answers.")
    hang_timeout_s: float = Field(
        default=60.0, gt=0, description="Without an answer to a question of one token for so long, it counts as dead."
    )
    max_restarts: int = Field(default=3, ge=0, description="Within an hour; one more, and the student ends.")

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


class ServingSection(Section):
    """Addresses and limits of the HTTP services."""

    host: str = "127.0.0.1"
    broker_port: int = Field(default=0, ge=0, le=MAX_PORT)
    inspector_port: int = Field(default=0, ge=0, le=MAX_PORT)
    max_body_bytes: Positive = 1_000_000
    requests_per_minute: Positive = Field(default=600, description="Of each key, at each service; more get 429.")
    concurrent_requests: Positive = Field(
        default=100, description="In flight for each key, at each service, streams included; more get 429."
    )
    request_timeout_s: float = Field(default=120.0, gt=0)

    @property
    def limits(self) -> Limits:
        return Limits(self.max_body_bytes, self.requests_per_minute, self.concurrent_requests)
