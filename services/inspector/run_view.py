"""A run at a glance, for the page and as JSON: scores, gate, verdicts, steps, who serves what, what got stuck."""

from services.inspector.log import VerdictCount
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
    """One finished step of a student. at: seconds since the epoch."""

    at: float
    student: str
    round: int
    step: int
    version: str
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


class RunView(Contract):
    """problem: why a part is missing (no state yet, or Redis away); what is here is still true.

    others: runs in the same directory. beside: the one of them that was asked for, with its scores.
    """

    run: str
    status: str | None
    reason: str | None
    round: int | None
    rounds: int
    samples: int
    students: dict[str, str]
    versions: dict[str, str]
    problem: str | None
    scores: tuple[ScorePoint, ...]
    others: tuple[str, ...]
    beside: str | None
    beside_scores: tuple[ScorePoint, ...]
    improvements: tuple[Improvement, ...]
    gates: tuple[GateDecision, ...]
    verdicts: tuple[VerdictCount, ...]
    steps: tuple[StepPoint, ...]
    difficulty: tuple[DifficultyRow, ...]
    figures: tuple[StudentFigures, ...]
    services: tuple[Heartbeat, ...]
    queues: tuple[QueueRow, ...]
    dead_letters: tuple[LetterRow, ...]
