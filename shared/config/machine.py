"""Settings of what a run uses of its machine: Redis, ports, threads, disk and GPUs.

None of them changes what is trained, but for rounding.
"""

import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from shared.bus.redis_url import names_password, with_password
from shared.config.section import Positive, Section, looked_at
from shared.errors import ConfigError
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
        description="A Redis that runs already: `redis://host:port/0`, with the user's name where it has users, "
        "never with a password. None: `opcod run` starts one.",
    )
    password_file: Path | None = Field(default=None, description="File with the password that goes with `url`.")
    lease_s: float = Field(
        default=60.0,
        gt=0,
        description="A job whose process has not been heard of for so long is given to another. Processes renew "
        "their jobs every third of it. Shorter: faster recovery from a kill, and less patience with a machine that "
        "stalls.",
    )
    leader_lease_s: float = Field(
        default=10.0, gt=0, description="The same for the broker: after so long without it another one takes over."
    )
    max_attempts: Positive = Field(
        default=3,
        description="A job that was begun so often and never finished is set aside (`opcod dlq`), as it may be what "
        "kills its process.",
    )
    deadline_s: float = Field(
        default=10.0, gt=0, description="Longest wait for the answer to one call; then it is tried again."
    )
    heartbeat_s: float = Field(
        default=2.0,
        gt=0,
        description="How often each process says that it is there; after three times as long it counts as gone.",
    )

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
        description="Threads of each student and trainer; never more than cores in all. `auto`: 1 where it computes "
        "on a CPU, as another number rounds sums otherwise and so changes results; beside a GPU an even share of the "
        "cores, 8 at most, counted as if all of the run's students and trainers were on this machine.",
    )
    min_free_disk_bytes: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        default="auto",
        description="Free disk under the runs directory without which no run begins or goes on. `auto`: what its "
        "files come to at most (`opcod run --dry-run` shows it), less those that are there, and 2 GB; and room in "
        "the cache for models and specialists that are not there yet.",
    )
    gpus: dict[str, tuple[int, ...]] | None = Field(
        default=None,
        description="GPUs of each service that uses one, counted from 0 on each node: `{ student-a = [0], student-b "
        "= [1], trainer-a = [2], trainer-b = [3] }`. A student's further replicas are `student-a-1` and so on. None: "
        "`opcod run` shares out what is there (docs/engines.md).",
    )
    turns: bool = Field(
        default=False,
        description="For one GPU that is too small for all at once: engines and trainers use it in turn, and what "
        "they hold waits in the host's memory. Slower. With engines on vLLM that students start, and with adapters "
        "(docs/scaling.md).",
    )
    nodes: Positive = Field(
        default=1,
        description="Machines that the run is on. On each but the first, `opcod join` starts its services "
        "(docs/cluster.md).",
    )
    placement: dict[str, tuple[int, ...]] | None = Field(
        default=None,
        description="On which node each service is, from 0: `{ student-a = [0], student-b = [0], trainer-a = [1, 2], "
        "trainer-b = [1, 2] }`. A student's further replicas are `student-a-1` and so on; a trainer's ranks are "
        "shared out over its nodes. None: students and then trainers, in turn over all nodes (docs/cluster.md).",
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
        description="Processes (ranks) that share one trainer's work, each on a GPU of its own. Full weights, with "
        "gradient and optimizer, are split over them; an adapter is whole on each. The weights come out the same but "
        "for rounding. `OPCOD_RANKS` says the same (docs/scaling.md).",
    )
    rank_timeout_s: float = Field(
        default=600.0, gt=0, description="Longest wait of a rank for another one; then the trainer starts again."
    )
    recompute: Literal["auto", True, False] = Field(
        default="auto",
        description="Gradient checkpointing: keep only the input of every block and compute the block again in the "
        "backward pass. A third more time for a fraction of the memory; the weights come out the same. `auto`: on a "
        "GPU, not on a CPU.",
    )
    deterministic: Literal["auto", True, False] = Field(
        default="auto",
        description="Use only algorithms of torch that give the same bits each time; 5 to 10 % slower on a GPU. "
        "Needed there for `opcod replay` to come out bit for bit; without, it is the same but for rounding. An "
        "operation that has no such algorithm ends the trainer and is named. `auto`: on a GPU; a CPU repeats itself "
        "anyway.",
    )

    def recomputes(self, device: str) -> bool:
        """device: "cuda" or "cpu"."""
        return device == "cuda" if self.recompute == "auto" else self.recompute

    def repeats(self, device: str) -> bool:
        """Whether torch is held to algorithms that repeat. device: "cuda" or "cpu"."""
        return device == "cuda" if self.deterministic == "auto" else self.deterministic


class RetentionSection(Section):
    """Which versions keep their weights on disk. Of the others the manifest stays, and `opcod replay` makes their
    weights again."""

    keep_last: int = Field(
        default=0,
        ge=0,
        description="How many of each student's newest versions stay, at least 2; 0: all. The live version, tutors "
        "and the version that validated best always stay.",
    )
    keep_every: int = Field(
        default=0, ge=0, description="Also keep every version whose step this divides, such as each tenth; 0: none."
    )

    @field_validator("keep_last")
    @classmethod
    def _room_for_who_lags(cls, value: int) -> int:
        if value == 1:
            raise ValueError("expected 0 (all) or at least 2: a replica may still serve the version before the newest")
        return value


MAX_PORT = 65535


class ServingSection(Section):
    """Addresses and limits of the HTTP services."""

    host: str = Field(
        default="127.0.0.1",
        description="Address that services listen on. Anything but loopback is for networks whose members you trust: "
        "there is no TLS (docs/security.md).",
    )
    broker_port: int = Field(
        default=0,
        ge=0,
        le=MAX_PORT,
        description="Port of the broker, which clients and `opcod ask` use; 0: any free one.",
    )
    inspector_port: int = Field(
        default=0, ge=0, le=MAX_PORT, description="Port of the inspector, the page; 0: any free one."
    )
    max_body_bytes: Positive = Field(default=1_000_000, description="Largest request body; a larger one gets 413.")
    requests_per_minute: Positive = Field(
        default=600, description="Requests of one key at one service in a minute; more get 429."
    )
    concurrent_requests: Positive = Field(
        default=100, description="Requests of one key in flight at one service, streams included; more get 429."
    )
    request_timeout_s: float = Field(
        default=120.0,
        gt=0,
        description="Longest wait of a person's question for its answer (`opcod ask`, OpenAI clients). Raise it for "
        "large models and long answers.",
    )

    @property
    def limits(self) -> Limits:
        return Limits(self.max_body_bytes, self.requests_per_minute, self.concurrent_requests)
