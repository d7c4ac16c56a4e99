"""What to do next, derived from the state alone: the stages of a round. Pure.

Each thing is marked as issued in the state in the same move that issues it, so deriving again issues nothing
twice. Both tutors are frozen at the round's start, so the phases of a round are independent; with `latest_tutor`
each is frozen when its pupil's phase begins.
"""

from services.broker.commands import AnnounceGate, Command, Serve
from services.broker.evaluations import evaluate
from services.broker.gate import decide
from services.broker.machine.books import end_stage, enter, serve_set
from services.broker.machine.phases import advance_phase
from services.broker.machine.plan import Plan
from shared.contracts.run import JobState, JobStatus, PhaseState, RunState, Split, Status


def advance(state: RunState, plan: Plan, at: float) -> list[Command]:
    """All commands that the state calls for, going through as many statuses as it allows."""
    commands: list[Command] = []
    while state.paused is None:
        status = state.status
        match status:
            case Status.VALIDATING:
                commands += evaluate(state, plan, at, after=Status.GATED)
            case Status.GATED:
                commands += _freeze(state, plan, at)
            case Status.TRAINING:
                commands += _train(state, plan, at)
            case Status.ROUND_DONE:
                commands += _close_round(state, plan, at)
            case Status.FINAL_EVAL:
                commands += evaluate(state, plan, at, after=Status.DONE)
        if state.status is status:
            break
    return commands


def _freeze(state: RunState, plan: Plan, at: float) -> list[Command]:
    """Decide the gate and freeze both students as they are now as this round's tutors."""
    current = [s for s in state.scores if s.split is Split.VALIDATION and s.round == state.round]
    decision = decide(plan, current, round_=state.round, before=state.gates[-1] if state.gates else None)
    state.gate = decision
    state.gates.append(decision)
    state.phases = [
        PhaseState(
            student=student,
            tutor=plan.peer_of(student),
            tutor_version=state.version[plan.peer_of(student)],
            first_step=state.steps[student] + 1,
            steps=plan.steps_per_round,
        )
        for student in plan.students
    ]
    announced = enter(state, Status.TRAINING, at)
    serve = [Serve(student, *serve_set(state, student)) for student in plan.students]
    return [AnnounceGate(decision), announced, *serve]


def _train(state: RunState, plan: Plan, at: float) -> list[Command]:
    commands: list[Command] = []
    for phase in state.phases:
        if not phase.finished:
            commands += advance_phase(state, plan, phase, at)
            if not plan.parallel and not phase.finished:
                break
    if all(phase.finished for phase in state.phases):
        commands.append(enter(state, Status.ROUND_DONE, at))
    return commands


def _close_round(state: RunState, plan: Plan, at: float) -> list[Command]:
    state.phases = []
    if state.round == plan.rounds:
        return [enter(state, Status.FINAL_EVAL, at)]
    state.round += 1
    return [enter(state, Status.VALIDATING, at)]


def reopen(state: RunState, sealed: dict[str, int]) -> None:
    """Redis lost everything: make open work again with the same ids and seeds; sealed batches stay sealed."""
    for evaluation in state.evals:
        for chunk in evaluation.chunks:
            if chunk.open:
                chunk.status = JobStatus.NONE
    for phase in state.phases:
        phase.open_revisions.clear()
        phase.kept_steps.clear()
        if phase.step is None or phase.step.done_version is not None:
            continue
        phase.step.sealed = False
        on_disk = sealed.get(phase.student, 0) >= phase.step.step
        for group in phase.step.groups:
            if group.excluded and not on_disk:
                group.excluded_from = group.feedback.output or group.excluded_from
            # A batch that is on disk is adopted by sealing it again; its payloads are not needed.
            group.rollout = JobState(status=JobStatus.DONE if on_disk else JobStatus.NONE)
            group.feedback = JobState(status=JobStatus.DONE if on_disk else JobStatus.NONE)
            group.revised = on_disk


def allow_again(state: RunState, at: float) -> None:
    """A person resumed the run: what was given up gets fresh attempts."""
    for phase in state.phases:
        step = phase.step
        if step is not None and step.sealed and step.done_version is None:
            # Its trainer may have refused it, and does not ask for it again. Sealing it once more adopts and announces
            # the batch that is there; a trainer that has it in hand, or has applied it, gives the answer it gave.
            end_stage(state, phase, "train", at)
            step.sealed = False
        for group in step.groups if step else []:
            if group.rollout.status is JobStatus.LOST:
                group.rollout = JobState(attempt=group.rollout.attempt + 1)
    for evaluation in state.evals:
        evaluation.chunks = [
            JobState(attempt=chunk.attempt + 1) if chunk.status is JobStatus.LOST else chunk
            for chunk in evaluation.chunks
        ]
