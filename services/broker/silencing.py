"""A tutor that turns bad is silenced for the rest of its round. Pure; the rule is shared.method.silencing.

Silence follows from the counts in the state, is kept in the state, and is never taken back within the round. From
then on the tutor is not asked: groups of the open step whose feedback is not issued go without, and feedback that is
under way is given up (`silenced` among the lost). Feedback that came before stays in its batch, so that
the sealed log and the events that were told agree; it is one step's at most.
"""

from services.broker.bookkeeping import add
from services.broker.commands import AnnounceSilence, Command
from services.broker.plan import Plan
from shared.contracts.diagnostics import Silenced
from shared.contracts.run import JobStatus, PhaseState, RunState
from shared.method.silencing import BreakCount, judge_tutor, resampling_chance

LOST_REASON = "silenced"


def is_silenced(state: RunState, phase: PhaseState) -> bool:
    """Whether this phase's tutor may not speak any more in this round."""
    return any(
        (each.round, each.tutor, each.student) == (state.round, phase.tutor, phase.student) for each in state.silenced
    )


def silence(state: RunState, plan: Plan, phase: PhaseState) -> list[Command]:
    """Silence the phase's tutor if the counts of this round call for it; let go of what waits for a silent one."""
    commands = [] if is_silenced(state, phase) else _judge(state, plan, phase)
    if is_silenced(state, phase):
        _let_go(state, phase)
    return commands


def _judge(state: RunState, plan: Plan, phase: PhaseState) -> list[Command]:
    count = break_count(state, plan, phase)
    judgement = judge_tutor(count, plan.max_break_rate)
    if judgement is None or not judgement.silence:
        return []
    silenced = Silenced(
        round=state.round,
        step=phase.step.step if phase.step else phase.first_step + phase.steps_done - 1,
        tutor=phase.tutor,
        student=phase.student,
        broke=count.broke,
        right=count.right,
        break_rate=judgement.break_rate,
        low=judgement.low,
        chance=judgement.chance,
        bound=judgement.bound,
    )
    state.silenced.append(silenced)
    return [AnnounceSilence(silenced)]


def break_count(state: RunState, plan: Plan, phase: PhaseState) -> BreakCount:
    """Of this round: revisions of right rollouts whose prompt held this tutor's feedback."""
    rows = [
        row
        for row in state.tallies[phase.student].revisions
        if row.told and row.right and (row.round, row.tutor) == (state.round, phase.tutor)
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
