"""The state of a run: all that the broker must know to go on, under 50 KB, kept in Redis and in state.json.

Texts are never in here: they lie in payloads and sealed batches, found by the ids that follow from this state.
"""

from enum import StrEnum

from pydantic import Field, model_validator

from shared.contracts.batches import AddedGroup, Taught
from shared.contracts.diagnostics import (
    Alarm,
    AlarmWatch,
    BatchRewards,
    RevisionCount,
    Silenced,
    StateModel,
    StepKind,
    StepTime,
)
from shared.contracts.jobs import JobKind


class Status(StrEnum):
    VALIDATING = "VALIDATING"
    GATED = "GATED"
    TRAINING = "TRAINING"
    ROUND_DONE = "ROUND_DONE"
    FINAL_EVAL = "FINAL_EVAL"
    DONE = "DONE"
    FAILED = "FAILED"


STATE_FILE = "state.json"
"""In a run's directory: the RunState that its broker wrote last."""

INITIAL_SCORES_FILE = "initial_scores.json"


class Split(StrEnum):
    VALIDATION = "validation"
    TEST = "test"


class JobStatus(StrEnum):
    NONE = "none"
    ISSUED = "issued"
    STARTED = "started"
    DONE = "done"
    LOST = "lost"


class JobState(StateModel):
    """Where a job stands. started_at: broker's clock, seconds. reason: why it was lost. output: its sha256."""

    status: JobStatus = JobStatus.NONE
    attempt: int = 1
    started_at: float | None = None
    output: str | None = None
    reason: str | None = None

    @property
    def open(self) -> bool:
        return self.status in (JobStatus.ISSUED, JobStatus.STARTED)


class GroupState(StateModel):
    """The jobs around one problem of a step. tutor: who speaks about it, None if nobody does. excluded: samples whose
    feedback a person keeps out of training. excluded_from: the output that this feedback was in, while it is made
    again."""

    problem_id: str
    tutor: str | None
    rollout: JobState = Field(default_factory=JobState)
    feedback: JobState = Field(default_factory=JobState)
    revised: bool = False
    excluded: list[int] = Field(default_factory=list)
    excluded_from: str | None = None

    def job(self, kind: JobKind) -> JobState:
        """Raises ValueError for a kind that is not tracked by group."""
        match kind:
            case JobKind.ROLLOUT:
                return self.rollout
            case JobKind.FEEDBACK:
                return self.feedback
        raise ValueError(f"a group has rollout and feedback jobs, not {kind.value}")

    @property
    def ready(self) -> bool:
        # Lost counts as told: a tutor that is silent holds up no step, the rollouts train without it.
        told = self.tutor is None or self.feedback.status in (JobStatus.DONE, JobStatus.LOST)
        return self.rollout.status is JobStatus.DONE and told


class Revision(StateModel):
    """A revision job under way; its step may be closed before it is done. tutor: whose feedback it is about."""

    job_id: str
    tutor: str
    step: int
    problem_id: str
    version: str


class StepState(StateModel):
    """One open step. `opened_at`: when it began; `mark`: when the stage that runs now began (broker's clock, s).

    counted: what its batch holds is in the tally. rewards: what the batch says of them, once it is sealed.
    ahead: groups that were sealed before their batch, in this order.
    """

    step: int
    base_version: str
    groups: list[GroupState]
    sealed: bool = False
    counted: bool = False
    done_version: str | None = None
    rewards: BatchRewards | None = None
    ahead: list[AddedGroup] = Field(default_factory=list, exclude_if=lambda ahead: not ahead)
    opened_at: float
    mark: float

    @property
    def tutored(self) -> bool:
        """Whether a tutor is asked about any of its groups."""
        return any(group.tutor is not None for group in self.groups)


class PhaseState(StateModel):
    """One student's K steps in this round. tutors: the other students, from the next one on, each with its frozen
    version."""

    student: str
    tutors: dict[str, str]
    first_step: int
    steps: int
    step: StepState | None = None
    steps_done: int = 0
    open_revisions: list[Revision] = Field(default_factory=list)
    kept_steps: list[int] = Field(default_factory=list, description="Closed steps whose payloads still lie there.")
    started_at: float | None = None
    finished_at: float | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_one_tutor(cls, data: object) -> object:
        """States were written with the one tutor that a student of two has."""
        if not isinstance(data, dict) or "tutor" not in data:
            return data
        tutor, version, step = data["tutor"], data.get("tutor_version"), data.get("step")
        data = {key: value for key, value in data.items() if key not in ("tutor", "tutor_version")}
        if isinstance(step, dict):
            groups = [
                {key: value for key, value in group.items() if key != "tutored"}
                | {"tutor": tutor if group.get("tutored") else None}
                for group in step.get("groups", ())
            ]
            data["step"] = step | {"groups": groups}
        data["open_revisions"] = [each | {"tutor": tutor} for each in data.get("open_revisions", ())]
        return data | {"tutors": {tutor: version}}

    @property
    def finished(self) -> bool:
        return self.finished_at is not None

    @property
    def peer(self) -> str:
        """The other one of two students."""
        # Of more than two this raises, rather than to take any of them.
        (peer,) = self.tutors
        return peer


class AnswerCounts(StateModel):
    """Of an evaluation's samples in one domain, beside the score: what a tolerant reader finds right, has the form
    that was asked for, was cut at max_tokens."""

    lenient: int = 0
    format_ok: int = 0
    truncated: int = 0

    def plus(self, other: "AnswerCounts") -> "AnswerCounts":
        return AnswerCounts(
            lenient=self.lenient + other.lenient,
            format_ok=self.format_ok + other.format_ok,
            truncated=self.truncated + other.truncated,
        )


class EvalState(StateModel):
    """One evaluation of one student on one split. correct: right samples by problem id; answers: by domain."""

    student: str
    version: str
    split: Split
    round: int
    samples: int
    chunks: list[JobState]
    correct: dict[str, int] = Field(default_factory=dict)
    answers: dict[str, AnswerCounts] = Field(default_factory=dict)

    @property
    def finished(self) -> bool:
        return all(chunk.status is JobStatus.DONE for chunk in self.chunks)


class PairGate(StateModel):
    """Whether one student may tutor another in a round, and the gap that says so."""

    tutor: str
    student: str
    gap: float
    interval: tuple[float, float]
    cognizant: bool


class GateDecision(StateModel):
    """Who may tutor whom in a round, and the numbers that say so: `pairs`. By student there are its gap over all
    domains to the best of all, and whether it may tutor anybody; of two students these are the pair's own."""

    round: int
    scores: dict[str, dict[str, float]]
    gaps: dict[str, float]
    gap_intervals: dict[str, tuple[float, float]]
    cognizant: dict[str, bool]
    mode: str
    tau: float
    hysteresis: float = 0.0
    scope: str = "pair"
    pairs: list[PairGate] = Field(default_factory=list)

    @model_validator(mode="before")
    @classmethod
    def _of_two(cls, data: object) -> object:
        """Decisions were written without pairs when there were two students."""
        if not isinstance(data, dict) or "pairs" in data or len(data.get("gaps", ())) != 2:
            return data
        first, second = data["gaps"]
        pairs = [
            {
                "tutor": tutor,
                "student": student,
                "gap": data["gaps"][tutor],
                "interval": data["gap_intervals"][tutor],
                "cognizant": data["cognizant"][tutor],
            }
            for tutor, student in ((first, second), (second, first))
        ]
        return data | {"pairs": pairs}

    def pair(self, tutor: str, student: str) -> PairGate:
        """Raises KeyError for two that the gate knows nothing of."""
        # A handful of students: a dictionary would only have to be kept in step with what is stored.
        for each in self.pairs:
            if (each.tutor, each.student) == (tutor, student):
                return each
        raise KeyError(f"round {self.round}: no gate of tutor {tutor} to student {student}")

    def named_pairs(self, between: str = " to ") -> dict[str, PairGate]:
        """The pairs by what they are called: of two students the tutor, of more `a to b` for a as tutor of b."""
        two = len(self.scores) == 2
        return {pair.tutor if two else f"{pair.tutor}{between}{pair.student}": pair for pair in self.pairs}


class Score(StateModel):
    """A finished evaluation, kept for the report: per domain the right samples of each problem, in order.

    majority: what the best constant answer would score on the domain's problems.
    """

    student: str
    version: str
    split: Split
    round: int
    samples: int
    correct: dict[str, list[int]]
    answers: dict[str, AnswerCounts]
    majority: dict[str, float]

    def mean(self, domain: str) -> float:
        # All problems have equally many samples, so the mean over samples is that over problems.
        return sum(self.correct[domain]) / self.drawn(domain)

    @property
    def mean_over_domains(self) -> float:
        return sum(map(self.mean, self.correct)) / len(self.correct)

    def drawn(self, domain: str) -> int:
        """Samples drawn in this domain."""
        return len(self.correct[domain]) * self.samples


class Tally(StateModel):
    """Counts of one student as tutee, over the run.

    verdicts: by round, words without the matched word. taught: by tutor and domain, of a student with several tutors.
    step_times: of steps whose tutor was asked and of others.
    """

    verdicts: dict[int, dict[str, int]] = Field(default_factory=dict)
    lost_feedback: dict[str, int] = Field(default_factory=dict)
    revisions: list[RevisionCount] = Field(default_factory=list)
    taught: list[Taught] = Field(default_factory=list)
    step_times: dict[StepKind, StepTime] = Field(default_factory=dict)
    output_tokens: dict[str, int] = Field(default_factory=dict)
    engine_seconds: dict[str, float] = Field(default_factory=dict)
    stage_seconds: dict[str, float] = Field(default_factory=dict)
    trainer_seconds: dict[str, float] = Field(default_factory=dict)
    trained_tokens: int = 0
    samples: int = 0
    active_samples: int = 0


class RunState(StateModel):
    """Written by the broker alone. `version` and `steps` hold each student's live version and steps done.

    at: broker's clock at the last event, seconds; what passes until a restart is nobody's working time, nor is it on
    this clock while Redis is away, and setting the machine's clock does not move it.
    fence: the broker's fencing token, so that an emptied Redis cannot hand out an old one. acted: ids of the last
    acts of people, so that one that comes twice is done once. identity: tells the run from others that were begun under
    its name; None of one that was begun without.
    """

    run: str
    identity: str | None = Field(default=None, exclude_if=lambda identity: identity is None)
    incarnation: int
    revision: int
    fence: int = 0
    status: Status
    paused: str | None = None
    failed: str | None = None
    round: int
    version: dict[str, str]
    steps: dict[str, int]
    served: dict[str, str]
    evals: list[EvalState] = Field(default_factory=list)
    gate: GateDecision | None = None
    phases: list[PhaseState] = Field(default_factory=list)
    scores: list[Score] = Field(default_factory=list)
    gates: list[GateDecision] = Field(default_factory=list)
    tallies: dict[str, Tally] = Field(default_factory=dict)
    silenced: list[Silenced] = Field(default_factory=list)
    acted: list[str] = Field(default_factory=list)
    watches: dict[str, AlarmWatch] = Field(default_factory=dict)
    alarms: list[Alarm] = Field(default_factory=list)
    status_seconds: dict[str, float] = Field(default_factory=dict)
    status_since: float
    at: float

    def copied(self) -> "RunState":
        """With nothing in common with this one that could change. One is made for every event, and pydantic's own deep
        copy took three times as long, most of an event's time."""
        return RunState.model_validate(self.model_dump())
