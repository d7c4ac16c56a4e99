"""Names of a run's processes as the launcher, `resources.gpus` and `resources.placement` have them. Pure.

`broker`, `trainer-a`, `student-a`, and `student-a-1` for student a's second replica.
"""

from collections.abc import Sequence
from typing import NamedTuple, Self

from shared.config.settings import RunSettings
from shared.contracts.heartbeats import Heartbeat


class ServiceName(NamedTuple):
    """student: of a student's or trainer's, else empty. replica: from 0, of a student's."""

    kind: str
    student: str = ""
    replica: int = 0

    def __str__(self) -> str:
        replica = str(self.replica) if self.replica else ""
        return "-".join(part for part in (self.kind, self.student, replica) if part)

    @classmethod
    def of(cls, service: str) -> Self:
        """Of a name as `str` makes it; students' own names have no hyphen."""
        kind, _, rest = service.partition("-")
        student, _, replica = rest.partition("-")
        return cls(kind, student, int(replica or 0))


def student_services(settings: RunSettings, students: Sequence[str] | None = None) -> list[str]:
    """Those of all students, or of these, a student's replicas side by side."""
    return [
        str(ServiceName("student", student, replica))
        for student in (settings.names if students is None else students)
        for replica in range(settings.students[student].started)
    ]


def name_of(beat: Heartbeat) -> str:
    """Of the process that it comes from, where a launcher has started that; elsewhere replicas have other names."""
    further = beat.service.startswith("student-") and beat.replica.isdecimal() and int(beat.replica) > 0
    return f"{beat.service}-{beat.replica}" if further else beat.service
