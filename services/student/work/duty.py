"""What a replica is there for, where its engine holds one version at a time and training needs two of the student: the
live one, and the tutor's of the round.

What always holds: a duty says what a replica takes first, and who may take a job at all is not restricted by it, so no
job waits for good for a replica that does not come. The bus hands a job out as it always does, and it is done once.

- `Duty`, `duty_of`: which replica has which; pure.
- `of_one_version`: which of the jobs in hand may start where versions take turns; pure.
- `Duties`: one replica's, as the heartbeats of the others and the serve set change.
"""

import math
from collections.abc import Collection, Sequence
from enum import StrEnum
from typing import Protocol, TypeVar

import structlog

from shared.bus.port import Bus
from shared.clock import Clock
from shared.contracts.heartbeats import Heartbeat
from shared.contracts.jobs import JOB_PRIORITY, Job, JobKind
from shared.contracts.weights import ServeSet

PATIENCE_S = 60.0
"""After so long without work of its duty a replica takes any, and one that keeps the tutor's version loads a live one
that no other holds. Either costs an exchange there and one back, of seconds each; most loads are over by then."""

TURN_S = 1.0
"""A turn without work counts for no more: in a longer one a version was loaded."""

log = structlog.get_logger()


class Duty(StrEnum):
    ALL = "all"
    LIVE = "live"
    TUTOR = "tutor"


KINDS = {
    Duty.ALL: JOB_PRIORITY,
    Duty.LIVE: tuple(kind for kind in JOB_PRIORITY if kind is not JobKind.FEEDBACK),
    Duty.TUTOR: (JobKind.FEEDBACK,),
}
"""In training feedback is of the tutor's version, all else of the live one or the one before it."""


def duty_of(replica: str, others: Collection[str], wanted: ServeSet) -> Duty:
    """others: replicas of the student that are ready. Every second one, by their names, keeps the tutor's version; one
    that is alone does everything, as does each while the two versions are the same."""
    names = sorted({replica, *others})
    if len(names) == 1 or set(wanted.versions) <= {wanted.live}:
        return Duty.ALL
    return Duty.TUTOR if names.index(replica) % 2 else Duty.LIVE


class InHand(Protocol):
    @property
    def job(self) -> Job: ...


Held = TypeVar("Held", bound=InHand)


def of_one_version(waiting: Sequence[Held], under_way: Collection[Held]) -> list[Held]:
    """Of the jobs that wait, the most urgent first, those that may start: all of the first one's version, once nothing
    of another runs. So no job has begun that waits for the engine to exchange versions: a tutor's deadline counts from
    its beginning."""
    if not waiting:
        return []
    version = waiting[0].job.version
    if any(held.job.version != version for held in under_way):
        return []
    return [held for held in waiting if held.job.version == version]


class Duties:
    """Used by the engine's thread alone."""

    def __init__(self, student: str, replica: str, bus: Bus, clock: Clock, *, period_s: float) -> None:
        """period_s: of heartbeats, which are read as often."""
        self.duty = Duty.ALL
        self._service = f"student-{student}"
        self._replica = replica
        self._bus = bus
        self._clock = clock
        self._period_s = period_s
        self._others: list[Heartbeat] = []
        self._looked_s = -math.inf
        self._live: str | None = None
        self._held_s = 0.0
        """When another was last known to hold the live version, or when that became another one."""
        self._asked_s = clock.monotonic_s()
        self._idle_s = 0.0

    def follow(self, wanted: ServeSet) -> Duty:
        """What this replica is there for now. Raises UnavailableError."""
        now_s = self._clock.monotonic_s()
        if now_s - self._looked_s >= self._period_s:
            self._others = [beat for beat in self._bus.heartbeats() if self._is_other(beat)]
            self._looked_s = now_s
        if wanted.live != self._live or any(wanted.live in beat.versions for beat in self._others):
            self._live, self._held_s = wanted.live, now_s
        duty = duty_of(self._replica, {beat.replica for beat in self._others}, wanted)
        # Whoever should load it has refused it, or hangs: without anybody who holds it the run would stand.
        if duty is Duty.TUTOR and now_s - self._held_s >= PATIENCE_S:
            duty = Duty.ALL
        if duty is not self.duty:
            log.info("duty changed", duty=duty.value, versions=wanted.versions)
            self.duty = duty
        return duty

    def kinds(self, held: Sequence[Job]) -> Sequence[JobKind]:
        """What may be taken now beside the jobs in hand; asked once in a turn at least."""
        now_s, own = self._clock.monotonic_s(), KINDS[self.duty]
        busy = any(job.kind in own for job in held)
        self._idle_s = 0.0 if busy else self._idle_s + min(now_s - self._asked_s, TURN_S)
        self._asked_s = now_s
        return own if self._idle_s < PATIENCE_S else JOB_PRIORITY

    def _is_other(self, beat: Heartbeat) -> bool:
        # Only one that is ready: what starts, drains or has lost its server does no work that could be left to it.
        return beat.service == self._service and beat.replica != self._replica and beat.state == "ready"
