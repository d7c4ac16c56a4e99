"""One student's K steps in a round: rollouts, feedback, sealing, swap, step by step. Pure.

Feedback is asked for as soon as its group has its rollouts: there is no barrier between the two. In a run that streams
there is none to the training either: a group that is ready is sealed ahead of its batch, as far as the trainer can
begin with it, and rollouts are asked for in the order in which it wants them.
"""

from services.broker.machine.books import end_stage, serve_set, to_issue
from services.broker.machine.moves import (
    Command,
    Forget,
    IssueFeedback,
    IssueRevision,
    IssueRollout,
    SealBatch,
    SealGroup,
    Serve,
)
from services.broker.machine.plan import Plan, PlannedProblem
from services.broker.machine.sharing import SharingPlan, peer_has_answered
from services.broker.machine.speaking import tutor_of
from services.broker.machine.watching import silence
from shared.bus.keys import step_payloads
from shared.contracts.diagnostics import StepKind, StepTime
from shared.contracts.ids import job_id
from shared.contracts.jobs import JobKind
from shared.contracts.run import (
    GroupState,
    JobStatus,
    PhaseState,
    Revision,
    RunState,
    StepState,
)
from shared.contracts.targets import group_job_id


def advance_phase(state: RunState, plan: Plan, phase: PhaseState, at: float) -> list[Command]:
    # Before any feedback is asked for: a tutor that is silenced now must not get one more job.
    commands = _forget_closed(phase) + silence(state, plan, phase)
    if phase.started_at is None:
        phase.started_at = at
        if plan.latest_tutor:
            phase.tutors = {tutor: state.version[tutor] for tutor in phase.tutors}
            commands += [Serve(tutor, *serve_set(state, tutor)) for tutor in phase.tutors]
    step = phase.step
    if step is not None and step.done_version is not None and _serves_live(state, phase.student):
        end_stage(state, phase, "swap", at)
        _count_time(state, phase, step, at)
        phase.kept_steps.append(step.step)
        phase.step, phase.steps_done = None, phase.steps_done + 1
        commands += _forget_closed(phase)
    # After the closing above, so that a phase goes from one step to the next within one event.
    if phase.step is None:
        if phase.steps_done == phase.steps:
            return commands + _finish_phase(state, phase, at)
        # A step's rollouts must come from its base version, so none is asked for before replicas hold it.
        if not _serves_live(state, phase.student):
            return commands
        phase.step = _open_step(state, plan, phase, at)
    return commands + _advance_step(state, plan, phase, phase.step, at)


def _count_time(state: RunState, phase: PhaseState, step: StepState, at: float) -> None:
    kind: StepKind = "with_feedback" if step.tutored else "without_feedback"
    time = state.tallies[phase.student].step_times.setdefault(kind, StepTime())
    time.steps += 1
    time.seconds += at - step.opened_at


def _finish_phase(state: RunState, phase: PhaseState, at: float) -> list[Command]:
    """A phase ends when its last revisions are in: they need this phase's versions."""
    if phase.open_revisions:
        return []
    phase.finished_at = at
    # What was frozen for this phase may be unloaded.
    return [Serve(tutor, *serve_set(state, tutor)) for tutor in phase.tutors]


def _open_step(state: RunState, plan: Plan, phase: PhaseState, at: float) -> StepState:
    number = phase.first_step + phase.steps_done
    return StepState(
        step=number,
        base_version=state.version[phase.student],
        groups=[
            GroupState(problem_id=problem.id, tutor=tutor_of(state, plan, phase, domain=problem.domain))
            for problem in _in_turn(plan, plan.step_problems(phase.student, number))
        ],
        opened_at=at,
        mark=at,
    )


def _in_turn(plan: Plan, problems: list[PlannedProblem]) -> list[PlannedProblem]:
    """In the order in which their rollouts are wanted."""
    if plan.streamed is None:
        return problems
    mini_batches = plan.mini_batches([problem.id for problem in problems])
    return sorted(problems, key=lambda problem: mini_batches[problem.id])


def _advance_step(state: RunState, plan: Plan, phase: PhaseState, step: StepState, at: float) -> list[Command]:
    if step.sealed:
        return []
    commands: list[Command] = []
    for group in step.groups:
        commands += _advance_group(state, plan, phase, step, group)
    shares = isinstance(plan, SharingPlan)
    if all(group.ready for group in step.groups) and (not shares or peer_has_answered(state, phase, step)):
        step.sealed = True
        # Of two that share there is no feedback: what a student waited for last are its peer's rollouts.
        end_stage(state, phase, "rollout" if shares else "feedback", at)
        commands.append(SealBatch(phase.student, step.step))
    elif plan.streamed is not None:
        commands += _seal_ahead(plan, phase, step)
    return commands


def _seal_ahead(plan: Plan, phase: PhaseState, step: StepState) -> list[Command]:
    """Groups that are ready, of the first mini-batch that is not, and of those before it."""
    mini_batches = plan.mini_batches([group.problem_id for group in step.groups])
    # The trainer could not begin with a later one: it waits for an update. Until then people may act on its feedback.
    first = min(mini_batches[group.problem_id] for group in step.groups if not group.ready)
    sealed = {added.problem_id for added in step.ahead}
    return [
        SealGroup(phase.student, step.step, group.problem_id)
        for group in step.groups
        if group.ready and group.problem_id not in sealed and mini_batches[group.problem_id] <= first
    ]


def _advance_group(state: RunState, plan: Plan, phase: PhaseState, step: StepState, group: GroupState) -> list[Command]:
    if to_issue(state, group.rollout, f"rollouts of {group.problem_id} (student {phase.student}, step {step.step})"):
        id_ = group_job_id(state, phase, group, JobKind.ROLLOUT)
        return [IssueRollout(id_, phase.student, step.base_version, state.round, step.step, group.problem_id)]
    if group.rollout.status is not JobStatus.DONE or group.tutor is None:
        return []
    # Not `to_issue`: lost feedback is given up and its group goes without, where a lost rollout is tried once more.
    if group.feedback.status is JobStatus.NONE:
        group.feedback.status = JobStatus.ISSUED
        return [
            IssueFeedback(
                group_job_id(state, phase, group, JobKind.FEEDBACK),
                group.tutor,
                phase.tutors[group.tutor],
                phase.student,
                state.round,
                step.step,
                group.problem_id,
            )
        ]
    wanted = group.feedback.status is JobStatus.DONE and plan.revises(phase.student, step.step, group.problem_id)
    if not wanted or group.revised:
        return []
    group.revised = True
    # By the version that answered first, even where the student has moved on: only the feedback may differ.
    id_ = job_id(state.round, phase.student, step.step, group.problem_id, JobKind.REVISE.value)
    # In the phase and not in its step: the next step begins meanwhile, and the phase ends when they are in.
    phase.open_revisions.append(
        Revision(job_id=id_, tutor=group.tutor, step=step.step, problem_id=group.problem_id, version=step.base_version)
    )
    return [IssueRevision(id_, phase.student, step.base_version, state.round, step.step, group.problem_id)]


def _forget_closed(phase: PhaseState) -> list[Command]:
    # A revision's payloads lie with those of its step, which therefore outlive the step.
    busy = {revision.step for revision in phase.open_revisions}
    done = [step for step in phase.kept_steps if step not in busy]
    phase.kept_steps = [step for step in phase.kept_steps if step in busy]
    return [Forget(step_payloads(phase.student, step)) for step in done]


def _serves_live(state: RunState, student: str) -> bool:
    return state.served.get(student) == state.version[student]
