"""The settings of what a run uses of its machine: Redis, threads, disk, GPUs."""

from pydantic import Field

from shared.config.section import Positive, Section


class BusSection(Section):
    """Redis and the leases on its queues."""

    url: str | None = Field(default=None, description="redis://…; none = an embedded server of the launcher's.")
    lease_s: float = Field(default=60.0, gt=0)
    leader_lease_s: float = Field(default=10.0, gt=0, description="The broker's own lease.")
    max_attempts: Positive = 3
    deadline_s: float = Field(default=10.0, gt=0, description="No single call waits longer for the server.")
    heartbeat_s: float = Field(default=2.0, gt=0)


class ResourcesSection(Section):
    """What the processes may use on this machine."""

    threads: Positive = Field(default=1, description="Threads of each model process; never more than cores in all.")
    min_free_disk_bytes: int = Field(default=2_000_000_000, ge=0)
    gpus: dict[str, tuple[int, ...]] | None = Field(
        default=None,
        description="GPUs by service, of all that use one: `{ student-a = [0], student-b = [1], trainer-a = [2], "
        "trainer-b = [3] }`; none: `opcod run` shares out those that there are (docs/engines.md).",
    )
