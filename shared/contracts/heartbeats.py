"""What a service says of itself every few seconds; gone when it is not renewed."""

from collections.abc import Iterable

from pydantic import Field

from shared.contracts.messages import Contract

WAITS_FOR_TURN = "waiting for its turn"
TRAINER_READY = ("ready", "training", WAITS_FOR_TURN)
"""States of a trainer that takes batches."""


class ProcessId(Contract):
    """Which process it is. kernel: where `pid` counts; began: tells it from a later one of the same pid there."""

    host: str
    kernel: str
    pid: int
    began: str


class MachineUsage(Contract):
    """What a service uses of its machine: its process, with all that it has started.

    cores: in use on the mean since the heartbeat before; bytes: resident. gpus: of those that it may use, how many are
    in use (0.5: one of them, half of the time), and gpu_bytes what is held on them, whoever they are used by; none
    where it has no GPU, or its driver does not tell.
    """

    cores: float
    bytes: int
    gpus: float | None = None
    gpu_bytes: int | None = None


class Heartbeat(Contract):
    """state: ready, starting, draining, or an engine state; url is where it answers, if it serves HTTP.

    versions: the checksum of each that it serves, and served_since, seconds since the epoch, from when on it has.
    rendering: what messages become as token ids here (`shared.modeling.chat.rendering_of`), once that is known.
    process: who has the name of service and replica; none in the last one, which gives it back.
    """

    service: str
    replica: str
    state: str
    url: str | None = None
    version: str | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    served_since: dict[str, float] = Field(default_factory=dict)
    free_slots: int | None = None
    rendering: str | None = None
    process: ProcessId | None = None
    usage: MachineUsage | None = None
    at: float


def trains(services: Iterable[Heartbeat]) -> bool:
    """Whether a trainer is up: the run takes steps, instead of only being served or looked at."""
    return any(beat.service.startswith("trainer-") for beat in services)
