"""A run at a glance, for the page and as JSON: scores, gate, verdicts, steps, who serves what, what got stuck."""

from services.inspector.store.log import VerdictCount
from shared.contracts.heartbeats import Heartbeat
from shared.contracts.messages import Contract
from shared.contracts.run import GateDecision
from shared.contracts.weights import StepMetrics


class ScorePoint(Contract):
    """One student in one domain at one evaluation, with its 95 % interval over problems (None while unknown)."""

    student: str
    version: str
    split: str
    round: int
    domain: str
    score: float
    interval: tuple[float, float] | None


class Improvement(Contract):
    """A student's first and last scores of one split by domain, and whether they improved in the sense of Pareto."""

    student: str
    split: str
    first: dict[str, float]
    last: dict[str, float]
    pareto: bool


class StepPoint(Contract):
    """One finished step of a student. at: seconds since the epoch. wall_s: since the student's step before it in this
    round, so that no evaluation is in it; None for the first."""

    at: float
    student: str
    round: int
    step: int
    version: str
    wall_s: float | None
    metrics: StepMetrics


class DifficultyRow(Contract):
    """Revisions of groups with as many wrong rollouts, of n. told: with the tutor's feedback in the prompt."""

    student: str
    wrong_rollouts: int
    told: bool
    broke: int
    right: int
    fixed: int
    wrong: int


class StudentFigures(Contract):
    """Of one student over the run: engine tokens a second by kind of job, wall seconds by stage, lost feedback."""

    student: str
    tokens_per_s: dict[str, float]
    stage_seconds: dict[str, float]
    lost_feedback: dict[str, int]


class QueueRow(Contract):
    """waiting: not taken by anybody yet; taken: in some consumer's hands."""

    queue: str
    waiting: int
    taken: int


class LetterRow(Contract):
    id: str
    queue: str
    reason: str
    deliveries: int


class RunResults(Contract):
    """What a run's state and log say of it: the part of a view that two runs can have side by side.

    reason: why it is paused or failed. round: the one that it is in, or ended in.
    """

    run: str
    status: str | None
    reason: str | None
    round: int | None
    versions: dict[str, str]
    scores: tuple[ScorePoint, ...]
    improvements: tuple[Improvement, ...]
    gates: tuple[GateDecision, ...]
    verdicts: tuple[VerdictCount, ...]
    steps: tuple[StepPoint, ...]
    difficulty: tuple[DifficultyRow, ...]
    figures: tuple[StudentFigures, ...]


class RunView(RunResults):
    """problem: why a part is missing (no state yet, or Redis away); what is here is still true.

    others: runs in the same directory. beside: the one of them that was asked for.
    """

    rounds: int
    samples: int
    students: dict[str, str]
    problem: str | None
    others: tuple[str, ...]
    beside: RunResults | None
    services: tuple[Heartbeat, ...]
    queues: tuple[QueueRow, ...]
    dead_letters: tuple[LetterRow, ...]
