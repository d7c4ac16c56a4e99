"""What the stages of a run share: issuing a job once, versions to serve, time spent. Pure.

From a job's id to what it is about. An id that no open work expects is stale and finds nothing.
"""

from dataclasses import dataclass
from typing import TypeVar

from services.broker.machine.moves import Tell
from shared.contracts.events import UNSTAMPED, StatusChanged
from shared.contracts.ids import eval_job_id, job_id
from shared.contracts.jobs import JobKind
from shared.contracts.run import EvalState, GroupState, JobState, JobStatus, PhaseState, Revision, RunState, Status
from shared.errors import OpcodError

MAX_JOB_ATTEMPTS = 2

Number = TypeVar("Number", int, float)


def tell_status(state: RunState, reason: str | None = None) -> Tell:
    return Tell(StatusChanged(**UNSTAMPED, status=state.status.value, round=state.round, reason=reason))


def enter(state: RunState, status: Status, at: float, reason: str | None = None) -> Tell:
    """Change the status and account for the time spent in the last one."""
    add(state.status_seconds, state.status.value, at - state.status_since)
    state.status, state.status_since = status, at
    return tell_status(state, reason)


def end_stage(state: RunState, phase: PhaseState, stage: str, at: float) -> None:
    """Book the wall time since the last mark of this phase's step under `stage`."""
    if phase.step is None:
        return
    add(state.tallies[phase.student].stage_seconds, stage, at - phase.step.mark)
    phase.step.mark = at


def add(totals: dict[str, Number], name: str, amount: Number) -> None:
    totals[name] = totals.get(name, type(amount)()) + amount


def serve_set(state: RunState, student: str) -> tuple[str, tuple[str, ...]]:
    """(live, all): the live version, and what open phases and revisions still need of this student."""
    live = state.version[student]
    needed = {live}
    if state.status is Status.TRAINING:
        for phase in state.phases:
            if phase.tutor == student and not phase.finished:
                needed.add(phase.tutor_version)
            if phase.student == student:
                needed |= {revision.version for revision in phase.open_revisions}
    return live, tuple(sorted(needed))


def to_issue(state: RunState, job: JobState, what: str) -> bool:
    """Mark a job that must be issued now, first or once more; a second loss pauses the run with its reason."""
    if job.status is JobStatus.LOST:
        if job.attempt % MAX_JOB_ATTEMPTS == 0:
            state.paused = f"{what} failed {MAX_JOB_ATTEMPTS} times: {job.reason}"
            return False
        job.attempt += 1
    elif job.status is not JobStatus.NONE:
        return False
    job.status, job.reason, job.started_at = JobStatus.ISSUED, None, None
    return True


@dataclass(frozen=True)
class GroupTarget:
    phase: PhaseState
    group: GroupState
    kind: JobKind

    @property
    def student(self) -> str:
        return self.phase.student


@dataclass(frozen=True)
class RevisionTarget:
    phase: PhaseState
    revision: Revision

    @property
    def student(self) -> str:
        return self.phase.student


@dataclass(frozen=True)
class EvalTarget:
    evaluation: EvalState
    index: int

    @property
    def chunk(self) -> JobState:
        return self.evaluation.chunks[self.index]

    @property
    def student(self) -> str:
        return self.evaluation.student


Target = GroupTarget | RevisionTarget | EvalTarget


def find(state: RunState, id_: str) -> Target | None:
    """What the job is about, or None if it belongs to nothing that is open now."""
    for phase in state.phases:
        for revision in phase.open_revisions:
            if revision.job_id == id_:
                return RevisionTarget(phase, revision)
        for group in phase.step.groups if phase.step else []:
            for kind in (JobKind.ROLLOUT, JobKind.FEEDBACK):
                if group_job_id(state, phase, group, kind) == id_:
                    return GroupTarget(phase, group, kind)
    for evaluation in state.evals:
        for index in range(len(evaluation.chunks)):
            if chunk_job_id(evaluation, index) == id_:
                return EvalTarget(evaluation, index)
    return None


def awaited(state: RunState, id_: str) -> Target | None:
    """What the job is about if its result is still waited for: one that came already, or was given up, is not."""
    target = find(state, id_)
    match target:
        case GroupTarget(group=group, kind=kind):
            return target if group.job(kind).open else None
        case EvalTarget():
            return target if target.chunk.open else None
    return target


def open_step(phase: PhaseState) -> int:
    """The number of the phase's open step. Raises OpcodError when it has none."""
    if phase.step is None:
        raise OpcodError(f"the phase of student {phase.student} has no open step")
    return phase.step.step


def group_job_id(state: RunState, phase: PhaseState, group: GroupState, kind: JobKind) -> str:
    """Id of the group's present attempt. Raises OpcodError when the phase has no open step."""
    attempt = group.job(kind).attempt
    return job_id(state.round, phase.student, open_step(phase), group.problem_id, kind.value, attempt)


def chunk_job_id(evaluation: EvalState, index: int) -> str:
    return eval_job_id(
        evaluation.round, evaluation.student, evaluation.split.value, index, evaluation.chunks[index].attempt
    )
