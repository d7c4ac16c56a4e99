"""Events: what a person wants to see. A log, capped; nothing in the run depends on it."""

from typing import Annotated, Literal, Self, TypedDict

from pydantic import Field, TypeAdapter

from shared.contracts.acting import Act
from shared.contracts.diagnostics import Alarm, Silenced
from shared.contracts.messages import Contract
from shared.contracts.run import GateDecision
from shared.contracts.weights import StepMetrics


class Stamp(TypedDict):
    at: float
    source: str


UNSTAMPED = Stamp(at=0.0, source="")
"""Of an event that is not told yet: whoever tells it says when, and who it is."""


SHOWN_CHARS = 1200
"""Of each text of an exchange in an event, which stays well under an envelope's 8 KB; the sealed batch has it whole."""


class BaseEvent(Contract):
    """at = seconds since the epoch on the sender's clock; source = service and replica."""

    at: float
    source: str
    kind: str

    def stamped(self, stamp: Stamp) -> Self:
        return self.model_copy(update=dict(stamp))


class StatusChanged(BaseEvent):
    kind: Literal["status"] = "status"
    status: str
    round: int
    reason: str | None = None


class RunTakenUp(BaseEvent):
    """A broker started on a run that had begun. steps: applied, sealed: highest sealed batch on disk, by student."""

    kind: Literal["taken_up"] = "taken_up"
    taken_from: str
    why: str
    status: str
    round: int
    steps: dict[str, int]
    sealed: dict[str, int]

    @property
    def line(self) -> str:
        """For people. A sealed batch beyond the applied steps is trained, not made again."""
        steps = []
        for student, applied in sorted(self.steps.items()):
            waiting = f", batch {self.sealed[student]} sealed" if self.sealed.get(student, 0) > applied else ""
            steps.append(f"{student} at step {applied}{waiting}")
        where = f"{self.status}, round {self.round}; {'; '.join(steps)}"
        return f"taken up from {self.taken_from} ({self.why}): {where}"


class GateDecided(BaseEvent):
    kind: Literal["gate"] = "gate"
    decision: GateDecision


class Evaluated(BaseEvent):
    """Mean score of each domain of a finished evaluation."""

    kind: Literal["evaluated"] = "evaluated"
    student: str
    version: str
    split: str
    round: int
    scores: dict[str, float]


class GroupGraded(BaseEvent):
    kind: Literal["group"] = "group"
    student: str
    round: int
    step: int
    problem_id: str
    domain: str
    rewards: tuple[float, ...]


class FeedbackGiven(BaseEvent):
    """One exchange: what the tutor said of one rollout and what was let through. Long texts are cut here
    (`cut`); the sealed batch has them whole."""

    kind: Literal["feedback"] = "feedback"
    student: str
    tutor: str
    tutor_version: str
    version: str
    round: int
    step: int
    problem_id: str
    domain: str
    question: str
    sample: int
    response: str
    correct: bool
    verdict: str
    raw: str | None
    delivered: str | None
    removed: tuple[str, ...] = ()
    cut: bool = False


class Revised(BaseEvent):
    """The student's new answer; change is fixed, broke or same. told: its prompt held the tutor's feedback."""

    kind: Literal["revised"] = "revised"
    student: str
    round: int
    step: int
    problem_id: str
    sample: int
    before: bool
    after: bool
    told: bool
    change: Literal["fixed", "broke", "same"]
    text: str


class BatchReady(BaseEvent):
    kind: Literal["sealed"] = "sealed"
    student: str
    round: int
    step: int
    uri: str
    samples: int
    active_samples: int
    kept_feedback: int
    mean_reward: float


class StepApplied(BaseEvent):
    kind: Literal["step"] = "step"
    student: str
    round: int
    step: int
    version: str
    metrics: StepMetrics


class VersionServing(BaseEvent):
    kind: Literal["serving"] = "serving"
    student: str
    replica: str
    version: str
    checksum: str


class JobLost(BaseEvent):
    kind: Literal["lost"] = "lost"
    job_id: str
    student: str
    reason: str


class AlarmRaised(Alarm, BaseEvent):
    """A student's last steps look wrong (docs/diagnostics.md); nothing is stopped."""

    kind: Literal["alarm"] = "alarm"


class TutorSilenced(Silenced, BaseEvent):
    """`tutor` may not speak to `student` for the rest of the round; fields as in the run's state."""

    kind: Literal["silenced"] = "silenced"


class Acted(BaseEvent):
    """What a person did about an exchange or a tutor. refused: why it was not done."""

    kind: Literal["acted"] = "acted"
    round: int
    act: Act = Field(discriminator="act")
    refused: str | None = None


Event = Annotated[
    StatusChanged
    | RunTakenUp
    | GateDecided
    | Evaluated
    | GroupGraded
    | FeedbackGiven
    | Revised
    | BatchReady
    | StepApplied
    | VersionServing
    | JobLost
    | AlarmRaised
    | TutorSilenced
    | Acted,
    Field(discriminator="kind"),
]
EVENT: TypeAdapter[Event] = TypeAdapter(Event)
