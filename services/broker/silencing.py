"""A tutor that turns bad is silenced for the rest of its round. Pure; the rule is shared.method.silencing.

Silence follows from the counts in the state, or a person asks for it (`silence_now`); it is kept in the state, and is
never taken back within the round. From then on the tutor is not asked: groups of the open step whose feedback is not
issued go without, and feedback that is under way is given up (`silenced` among the lost). Feedback that came before
stays in its batch, so that the sealed log and the events that were told agree; it is one step's at most.
"""

from services.broker.commands import AnnounceSilence, Command
from services.broker.machine.books import add
from services.broker.machine.plan import Plan
from shared.contracts.acting import SilenceAct
from shared.contracts.diagnostics import Silenced
from shared.contracts.run import JobStatus, PhaseState, RunState
from shared.method.silencing import BreakCount, Judgement, judge_tutor, resampling_chance

LOST_REASON = "silenced"


def is_silenced(state: RunState, tutor: str, student: str) -> bool:
    """Whether this tutor may not speak to this tutee any more in this round."""
    return any((each.round, each.tutor, each.student) == (state.round, tutor, student) for each in state.silenced)


def silence(state: RunState, plan: Plan, phase: PhaseState) -> list[Command]:
    """Silence the phase's tutor if the counts of this round call for it; let go of what waits for a silent one."""
    commands = [] if is_silenced(state, phase.tutor, phase.student) else _judge(state, plan, phase)
    if is_silenced(state, phase.tutor, phase.student):
        _let_go(state, phase)
    return commands


def silence_now(state: RunState, plan: Plan, act: SilenceAct) -> list[Command]:
    """A person silences a tutor for this round, with or without numbers that call for it."""
    student = plan.peer_of(act.tutor)
    phase = next((phase for phase in state.phases if phase.student == student), None)
    step = _step_of(phase) if phase else state.steps[student] + 1
    return [_add(state, plan, student, act.tutor, step, act)]


def _judge(state: RunState, plan: Plan, phase: PhaseState) -> list[Command]:
    judgement = judge_tutor(break_count(state, plan, phase.student, phase.tutor), plan.max_break_rate)
    if judgement is None or not judgement.silence:
        return []
    return [_add(state, plan, phase.student, phase.tutor, _step_of(phase))]


def _step_of(phase: PhaseState) -> int:
    return phase.step.step if phase.step else phase.first_step + phase.steps_done - 1


def _add(
    state: RunState, plan: Plan, student: str, tutor: str, step: int, act: SilenceAct | None = None
) -> AnnounceSilence:
    count = break_count(state, plan, student, tutor)
    judgement = judge_tutor(count, plan.max_break_rate) or Judgement(0.0, 0.0, 0.0, plan.max_break_rate)
    silenced = Silenced(
        round=state.round,
        step=step,
        tutor=tutor,
        student=student,
        broke=count.broke,
        right=count.right,
        break_rate=judgement.break_rate,
        low=judgement.low,
        chance=judgement.chance,
        bound=judgement.bound,
        by=act.by if act else None,
        reason=act.reason if act else None,
    )
    state.silenced.append(silenced)
    return AnnounceSilence(silenced)


def break_count(state: RunState, plan: Plan, student: str, tutor: str) -> BreakCount:
    """Of this round: revisions of right rollouts whose prompt held this tutor's feedback."""
    rows = [
        row
        for row in state.tallies[student].revisions
        if row.told and row.right and (row.round, row.tutor) == (state.round, tutor)
    ]
    return BreakCount(
        broke=sum(row.broke for row in rows),
        right=sum(row.right for row in rows),
        right_squares=sum(row.right_squares for row in rows),
        expected=sum(row.right * resampling_chance(row.wrong_rollouts, plan.rollout_samples) for row in rows),
    )


def _let_go(state: RunState, phase: PhaseState) -> None:
    """Nothing of the open step waits for the tutor."""
    for group in phase.step.groups if phase.step and not phase.step.sealed else []:
        if not group.tutored:
            continue
        if group.feedback.status is JobStatus.NONE:
            group.tutored = False
        elif group.feedback.open:
            group.feedback.status, group.feedback.reason = JobStatus.LOST, LOST_REASON
            add(state.tallies[phase.student].lost_feedback, LOST_REASON, 1)
