"""What the state machine wants done. Executing one twice has the effect of executing it once."""

from dataclasses import dataclass

from shared.contracts.acting import Act
from shared.contracts.diagnostics import Alarm, Silenced
from shared.contracts.run import GateDecision, Score, Split, Status
from shared.contracts.steps import StepRecord


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
class Announce:
    status: Status
    round: int
    reason: str | None = None


@dataclass(frozen=True)
class AnnounceGate:
    decision: GateDecision


@dataclass(frozen=True)
class AnnounceScore:
    score: Score


@dataclass(frozen=True)
class AnnounceAlarm:
    alarm: Alarm


@dataclass(frozen=True)
class AnnounceSilence:
    silenced: Silenced


@dataclass(frozen=True)
class KeepAct:
    """Write down and tell what a person did, or why it was refused."""

    act: Act
    round: int
    refused: str | None


@dataclass(frozen=True)
class KeepRecord:
    """Write what a finished step looked like below the run's directory."""

    record: StepRecord


Command = (
    IssueEval
    | IssueRollout
    | IssueFeedback
    | IssueRevision
    | SealBatch
    | Serve
    | Forget
    | Announce
    | AnnounceGate
    | AnnounceScore
    | AnnounceAlarm
    | AnnounceSilence
    | KeepAct
    | KeepRecord
)
