"""Which replicas of a student are up, and whether enough of them hold a version, or still may."""

from collections import defaultdict

from shared.bus.port import Bus
from shared.config.settings import RunSettings
from shared.contracts.heartbeats import Heartbeat


class Replicas:
    """Read off the heartbeats, which end by themselves with whoever sent them. Who refused what is known since this
    broker's start; a replica says it again with each try."""

    def __init__(self, settings: RunSettings, bus: Bus) -> None:
        self._settings = settings
        self._bus = bus
        self._refused: defaultdict[tuple[str, str], set[str]] = defaultdict(set)

    def enough(self, student: str, version: str, *, told_by: str | None = None) -> bool:
        """Whether `students.<name>.replicas` of them hold it, or all that are up where those are fewer.

        told_by: a replica that has just said that it holds it; its heartbeat may not say so yet. With the setting's
        default that is enough by itself, and nothing is asked of the bus.
        """
        needed = self._settings.students[student].replicas
        if told_by is not None:
            self._refused[student, version].discard(told_by)
        if told_by is not None and needed == 1:
            return True
        beats = self._up(student)
        up = {beat.replica for beat in beats}
        holding = {beat.replica for beat in beats if version in beat.versions}
        if told_by is not None:
            up.add(told_by)
            holding.add(told_by)
        return len(holding) >= max(1, min(needed, len(up)))

    def still_enough(self, student: str, version: str, *, refused_by: str) -> bool:
        """Whether those that are up and did not refuse it may yet be enough to hold it. refused_by: who just did."""
        self._refused[student, version].add(refused_by)
        up = {beat.replica for beat in self._up(student)} | {refused_by}
        left = up - self._refused[student, version]
        return len(left) >= min(self._settings.students[student].replicas, len(up))

    def _up(self, student: str) -> list[Heartbeat]:
        beats = self._bus.heartbeats()
        return [beat for beat in beats if beat.service == f"student-{student}" and beat.state != "draining"]
