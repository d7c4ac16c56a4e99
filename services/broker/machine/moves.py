"""The events that go into the state machine and the commands that come out.

An event is something that happened to the run; its `at` is the broker's `WorkingTime`, seconds since the epoch. A
command is something to be done; doing it twice has the effect of doing it once.
"""

from dataclasses import dataclass, field
from typing import Literal

from shared.contracts.acting import Act
from shared.contracts.diagnostics import RevisionCount
from shared.contracts.events import Acted, Event
from shared.contracts.jobs import JobKind
from shared.contracts.run import AnswerCounts, Score, Split
from shared.contracts.weights import StepDone, StepFailed, StepRecord


@dataclass(frozen=True)
class JobReported:
    """A job was started, done or failed.

    output: sha256 of the payload of a done job. correct: right samples by problem, of an evaluation job;
    answers: what stands beside its score, by domain. revised: what a revision job's answers did to the rollouts,
    with and without feedback.
    """

    at: float
    job_id: str
    outcome: Literal["started", "done", "failed"]
    kind: JobKind | None = None
    reason: str | None = None
    output: str | None = None
    output_tokens: int = 0
    engine_seconds: float = 0.0
    correct: dict[str, int] = field(default_factory=dict)
    answers: dict[str, AnswerCounts] = field(default_factory=dict)
    revised: tuple[RevisionCount, ...] = ()


@dataclass(frozen=True)
class StepFinished:
    at: float
    done: StepDone


@dataclass(frozen=True)
class StepRefused:
    at: float
    failed: StepFailed


@dataclass(frozen=True)
class VersionServed:
    """enough: of the student's replicas hold it, so that work for it may be issued."""

    at: float
    student: str
    version: str
    enough: bool = True


@dataclass(frozen=True)
class Controlled:
    at: float
    action: Literal["pause", "resume", "abort"]
    reason: str


@dataclass(frozen=True)
class Asked:
    """A person acts. sealed: the batch of the exchange lies on disk."""

    at: float
    act: Act
    sealed: bool = False


@dataclass(frozen=True)
class Ticked:
    at: float


@dataclass(frozen=True)
class TakenUp:
    """The broker (re)started.

    sealed: the highest sealed batch on disk, by student. initial: scores that a new run takes over from another one.
    """

    at: float
    redis_was_empty: bool
    sealed: dict[str, int] = field(default_factory=dict)
    initial: tuple[Score, ...] = ()


MachineEvent = JobReported | StepFinished | StepRefused | VersionServed | Controlled | Asked | Ticked | TakenUp


@dataclass(frozen=True)
class IssueEval:
    job_id: str
    student: str
    version: str
    round: int
    split: Split
    chunk: int
    samples: int


@dataclass(frozen=True)
class IssueRollout:
    job_id: str
    student: str
    version: str
    round: int
    step: int
    problem_id: str


@dataclass(frozen=True)
class IssueFeedback:
    job_id: str
    tutor: str
    tutor_version: str
    student: str
    round: int
    step: int
    problem_id: str


@dataclass(frozen=True)
class IssueRevision:
    job_id: str
    student: str
    version: str
    round: int
    step: int
    problem_id: str


@dataclass(frozen=True)
class SealGroup:
    """Ahead of its batch, for the trainer to begin with."""

    student: str
    step: int
    problem_id: str


@dataclass(frozen=True)
class SealBatch:
    student: str
    step: int


@dataclass(frozen=True)
class Serve:
    """The versions that the replicas of a student must hold."""

    student: str
    live: str
    versions: tuple[str, ...]


@dataclass(frozen=True)
class Forget:
    """Payloads under this key (shared.bus.keys) that nobody needs any more."""

    key: str


@dataclass(frozen=True)
class Tell:
    """Tell people and services. The event is stamped when it is told, with the time and name of the broker."""

    event: Event


@dataclass(frozen=True)
class KeepAct:
    """Write down and tell what a person did, or why it was refused."""

    acted: Acted


@dataclass(frozen=True)
class KeepRecord:
    """Write what a finished step looked like below the run's directory."""

    record: StepRecord


Command = (
    IssueEval
    | IssueRollout
    | IssueFeedback
    | IssueRevision
    | SealGroup
    | SealBatch
    | Serve
    | Forget
    | Tell
    | KeepAct
    | KeepRecord
)
