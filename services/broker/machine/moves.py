"""What can happen to a run, as the state machine sees it. `at`: the broker's `WorkingTime`, seconds since the
epoch."""

from dataclasses import dataclass, field
from typing import Literal

from shared.contracts.acting import Act
from shared.contracts.diagnostics import BatchRewards, RevisionCount
from shared.contracts.jobs import JobKind
from shared.contracts.run import AnswerCounts, Score
from shared.contracts.weights import StepMetrics


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
class BatchWritten:
    """The batch of a step lies sealed on disk. verdicts: counts by word, without the matched word."""

    at: float
    student: str
    step: int
    verdicts: dict[str, int]
    samples: int
    active_samples: int
    rewards: BatchRewards


@dataclass(frozen=True)
class StepFinished:
    at: float
    student: str
    step: int
    version: str
    metrics: StepMetrics


@dataclass(frozen=True)
class StepRefused:
    at: float
    student: str
    step: int
    reason: str


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
class Recovered:
    """The broker (re)started.

    sealed: the highest sealed batch on disk, by student. initial: scores that a new run takes over from another one.
    """

    at: float
    redis_was_empty: bool
    sealed: dict[str, int] = field(default_factory=dict)
    initial: tuple[Score, ...] = ()


MachineEvent = (
    JobReported | BatchWritten | StepFinished | StepRefused | VersionServed | Controlled | Asked | Ticked | Recovered
)
