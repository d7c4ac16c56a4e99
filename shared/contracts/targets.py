"""From a job's id to what it is about in the state of its run. An id that no open work expects finds nothing. Pure."""

from dataclasses import dataclass

from shared.contracts.ids import eval_job_id, job_id
from shared.contracts.jobs import JobKind
from shared.contracts.run import EvalState, GroupState, JobState, PhaseState, Revision, RunState
from shared.errors import OpcodError


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
        # These first: a revision may outlive the step that it belongs to.
        for revision in phase.open_revisions:
            if revision.job_id == id_:
                return RevisionTarget(phase, revision)
        for group in phase.step.groups if phase.step else []:
            # Rules nearly all of them out, for a twentieth of what their ids cost; a job is looked up twice a message.
            if group.problem_id not in id_:
                continue
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
    # With the tutor only where it may be another: ids, and the seeds that follow from them, of two students stay.
    by = group.tutor if kind is JobKind.FEEDBACK and len(phase.tutors) > 1 else None
    return job_id(state.round, phase.student, open_step(phase), group.problem_id, kind.value, attempt, by)


def chunk_job_id(evaluation: EvalState, index: int) -> str:
    return eval_job_id(
        evaluation.round, evaluation.student, evaluation.split.value, index, evaluation.chunks[index].attempt
    )
