"""Which replicas of a student are up, and whether enough of them hold a version."""

from shared.bus.port import Bus
from shared.config.settings import RunSettings


class Replicas:
    """Read off the heartbeats, which end by themselves with whoever sent them."""

    def __init__(self, settings: RunSettings, bus: Bus) -> None:
        self._settings = settings
        self._bus = bus

    def enough(self, student: str, version: str, *, told_by: str | None = None) -> bool:
        """Whether `students.<name>.replicas` of them hold it, or all that are up where those are fewer.

        told_by: a replica that has just said that it holds it; its heartbeat may not say so yet. With the setting's
        default that is enough by itself, and nothing is asked of the bus.
        """
        needed = self._settings.students[student].replicas
        if told_by is not None and needed == 1:
            return True
        beats = [beat for beat in self._bus.heartbeats() if beat.service == f"student-{student}"]
        up = {beat.replica for beat in beats if beat.state != "draining"}
        holding = {beat.replica for beat in beats if version in beat.versions} & up
        if told_by is not None:
            up.add(told_by)
            holding.add(told_by)
        return len(holding) >= max(1, min(needed, len(up)))
