"""Alarms about a student's training, and the silencing of a tutor that does harm. Pure.

An alarm is told, counted and reported; it never stops a run. It stands while its condition holds, and is raised
again only after the condition was gone. Looked at over the last `alarms.window` steps of one student:

- nothing_trained: no rollout is trained on, so that the weights stay as they are;
- near_zero_gradient: every gradient norm is near zero though the loss is not small;
- reward_collapse: the mean reward is far below the best such stretch, by share and by standard errors over groups;
- answer_collapse: where rollouts are wrong, nearly all of a group are the same text;
- length_drift: answers are far longer or shorter than in the run's first round.

In each step:

- engine_drift: engine and trainer give the sampled tokens other log-probs, so they do not hold the same model.

At each validation:

- answer_form: hardly an answer has the form that is graded, so that all of them count as wrong;
- validation_gap (not at the first): the reward of the last steps has run away from the validation score, compared
  with the first steps and the validation before them: what is learnt are the training problems.

A tutor whose feedback to a student breaks right answers too often is silenced for it, for the rest of its round; the
rule is shared.method.silencing. A person may ask for it, too (`silence_now`). It is never taken back within the round.
From then on the tutor is not asked: groups of the open step whose feedback is not issued go to another tutor, or
without, and feedback that is under way is given up (`silenced` among the lost). Feedback that came before stays in its
batch, so that the sealed log and the events that were told agree; it is one step's at most.
"""

import math
from collections.abc import Iterator, Sequence
from statistics import mean, pvariance

from services.broker.machine.books import add
from services.broker.machine.moves import Command, Tell
from services.broker.machine.plan import Plan
from services.broker.machine.speaking import is_silenced, tutor_of
from shared.config.alarms import AlarmsSection
from shared.contracts.acting import SilenceAct
from shared.contracts.diagnostics import (
    Alarm,
    AlarmName,
    AlarmWatch,
    BatchRewards,
    FirstLengths,
    RewardWindow,
    Silenced,
    StepLook,
)
from shared.contracts.events import UNSTAMPED, AlarmRaised, TutorSilenced
from shared.contracts.run import JobStatus, PhaseState, RunState, Score, Split, StepState
from shared.contracts.weights import StepMetrics
from shared.method.silencing import BreakCount, SilenceJudgement, judge_tutor, resampling_chance

Found = tuple[AlarmName, str | None]
"""An alarm, and why it stands; None if it does not."""


def look(
    state: RunState, settings: AlarmsSection, student: str, step: StepState, metrics: StepMetrics
) -> list[Command]:
    """Take a finished step into the student's watch; the alarms that it raises."""
    watch = state.watches.setdefault(student, AlarmWatch())
    flat = metrics.grad_norm < settings.min_grad_norm and metrics.loss > settings.min_loss
    active = metrics.active_share > 0
    seen = StepLook(rewards=step.rewards, flat=flat, active=active, delta_logprob=metrics.delta_logprob)
    # Replaced, not appended to: the window stays bounded, and with it the state.
    watch.recent = [*watch.recent, seen][-settings.window :]
    if state.round == 1:
        _keep_length(watch, step.rewards)
    now = _window(watch, settings)
    watch.first = watch.first or now
    found = list(_conditions(watch, settings, now, later=state.round > 1))
    return [each for name, reason in found for each in _settle(state, watch, student, step.step, (name, reason))]


def look_at_scores(state: RunState, plan: Plan, scores: Sequence[Score]) -> list[Command]:
    """Look at the form of each student's validation answers, and compare its score with the rewards of its last steps;
    the alarms that this raises."""
    commands: list[Command] = []
    for score in scores:
        if score.split is not Split.VALIDATION:
            continue
        watch = state.watches.setdefault(score.student, AlarmWatch())
        before = next(s for s in state.scores if (s.student, s.split) == (score.student, score.split))
        found: list[Found] = [
            ("answer_form", _answer_form(plan, score)),
            ("validation_gap", _validation_gap(watch, plan, before, score)),
        ]
        for each in found:
            commands += _settle(state, watch, score.student, state.steps[score.student], each)
    return commands


def _settle(state: RunState, watch: AlarmWatch, student: str, step: int, found: Found) -> list[Command]:
    """Let the alarm stand or not, and raise it if it did not stand before."""
    name, reason = found
    if reason is None and name in watch.standing:
        watch.standing.remove(name)
    if reason is None or name in watch.standing:
        return []
    watch.standing.append(name)
    alarm = Alarm(student=student, alarm=name, round=state.round, step=step, reason=reason)
    state.alarms.append(alarm)
    return [Tell(AlarmRaised(**UNSTAMPED, **alarm.model_dump()))]


def _conditions(
    watch: AlarmWatch, settings: AlarmsSection, now: RewardWindow | None, *, later: bool
) -> Iterator[Found]:
    """later: than the first round, with which lengths are compared."""
    yield "engine_drift", _engine_drift(watch.recent[-1], settings)
    if len(watch.recent) < settings.window:
        return
    yield "nothing_trained", _nothing_trained(watch.recent)
    yield "near_zero_gradient", _near_zero(watch.recent, settings)
    yield "reward_collapse", _reward_collapse(watch, settings, now)
    yield "answer_collapse", _answer_collapse(watch.recent, settings)
    if later:
        yield "length_drift", _length_drift(watch, settings)


def _keep_length(watch: AlarmWatch, rewards: BatchRewards | None) -> None:
    if rewards is None or rewards.mean_tokens is None:
        return
    before = watch.lengths or FirstLengths(mean=0.0, steps=0)
    steps = before.steps + 1
    watch.lengths = FirstLengths(mean=before.mean + (rewards.mean_tokens - before.mean) / steps, steps=steps)


def _window(watch: AlarmWatch, settings: AlarmsSection) -> RewardWindow | None:
    """The rewards of the last steps; None where they are too few, or not known of each."""
    rewards = [step.rewards for step in watch.recent if step.rewards is not None]
    if len(rewards) < settings.window:
        return None
    return RewardWindow(
        mean=sum(each.mean for each in rewards) / len(rewards),
        # Of a mean of n independent means: the sum of their variances over n squared.
        variance=sum(each.variance for each in rewards) / len(rewards) ** 2,
    )


def _engine_drift(step: StepLook, settings: AlarmsSection) -> str | None:
    if step.delta_logprob <= settings.max_delta_logprob:
        return None
    return (
        f"mean |Δ log-prob| of engine and trainer is {step.delta_logprob:.3f} nats, above "
        f"{settings.max_delta_logprob:g}: they do not hold the same weights, template or temperature"
    )


def _nothing_trained(recent: Sequence[StepLook]) -> str | None:
    if any(step.active for step in recent):
        return None
    return f"nothing of {len(recent)} steps could be trained on: no demonstration, no feedback, no rewards that differ"


def _near_zero(recent: Sequence[StepLook], settings: AlarmsSection) -> str | None:
    if not all(step.flat for step in recent):
        return None
    bounds = f"gradient norm below {settings.min_grad_norm:g} with a loss above {settings.min_loss:g}"
    return f"{bounds} for {len(recent)} steps"


def _reward_collapse(watch: AlarmWatch, settings: AlarmsSection, now: RewardWindow | None) -> str | None:
    """Compare the last window with the best one so far, then keep the better of the two for next time."""
    if now is None:
        return None
    best = watch.best
    # Kept before the comparison returns, but compared with the one before: a window is never held against itself.
    if best is None or now.mean > best.mean:
        watch.best = now
    if best is None:
        return None
    fallen = best.mean - now.mean
    surely = fallen > settings.collapse_z * math.sqrt(best.variance + now.variance)
    if not surely or fallen < settings.collapse_drop * best.mean:
        return None
    return f"mean reward {now.mean:.3f} over {settings.window} steps, {best.mean:.3f} at its best"


def _answer_collapse(recent: Sequence[StepLook], settings: AlarmsSection) -> str | None:
    shares = [step.rewards.unique_share for step in recent if step.rewards is not None]
    known = [share for share in shares if share is not None]
    # Every step of the window has to say something: a step whose rollouts are all right says nothing about collapse.
    if len(known) < len(recent) or sum(known) / len(known) > settings.min_unique_share:
        return None
    share = sum(known) / len(known)
    return f"{100 * share:.0f} % of the rollouts in groups with a wrong one are distinct, over {len(recent)} steps"


def _length_drift(watch: AlarmWatch, settings: AlarmsSection) -> str | None:
    lengths = [step.rewards.mean_tokens for step in watch.recent if step.rewards is not None]
    known = [length for length in lengths if length is not None]
    first = watch.lengths
    if first is None or len(known) < len(watch.recent):
        return None
    now = sum(known) / len(known)
    if first.mean <= now * settings.max_length_ratio and now <= first.mean * settings.max_length_ratio:
        return None
    return f"answers of {now:.0f} tokens over {len(known)} steps, of {first.mean:.0f} in the first round"


def _answer_form(plan: Plan, score: Score) -> str | None:
    # A release that did not count them, or a run of one, says nothing of them.
    if score.answers.keys() != score.correct.keys():
        return None
    drawn = sum(score.drawn(domain) for domain in score.correct)
    # An answer may be right and lack the form, as a letter alone, or one with a word behind its block.
    graded = sum(max(counts.format_ok, sum(score.correct[domain])) for domain, counts in score.answers.items())
    if graded >= plan.alarms.min_form_share * drawn:
        return None
    return (
        f"{graded} of {drawn} validation answers have the form that is graded, the others count as wrong whatever they "
        "say: the problems do not ask for it, or the model does not keep it, or answers are cut short"
    )


def _validation_gap(watch: AlarmWatch, plan: Plan, before: Score, score: Score) -> str | None:
    """before: the validation that the run began with, of the same problems."""
    first, now = watch.first, _window(watch, plan.alarms)
    # Of the first validation itself there is nothing to compare.
    if first is None or now is None or before is score:
        return None
    shares = plan.training_shares()
    gained, variance = 0.0, first.variance + now.variance
    for domain, share in shares.items():
        pairs = zip(before.correct[domain], score.correct[domain], strict=True)
        changes = [(late - early) / score.samples for early, late in pairs]
        gained += share * mean(changes)
        # Both answered the same problems, so the noise is that of the changes and not of two scores.
        variance += share**2 * (pvariance(changes) / max(len(changes) - 1, 1))
    grown = (now.mean - first.mean) - gained
    if grown <= max(plan.alarms.max_gap_growth, plan.alarms.gap_z * math.sqrt(variance)):
        return None
    validated = [sum(share * each.mean(domain) for domain, share in shares.items()) for each in (before, score)]
    return (
        f"mean reward went from {first.mean:.3f} in the first {plan.alarms.window} steps to {now.mean:.3f} in the last "
        f"ones, the validation score from {validated[0]:.3f} to {validated[1]:.3f}"
    )


LOST_REASON = "silenced"


def silence(state: RunState, plan: Plan, phase: PhaseState) -> list[Command]:
    """Silence the phase's tutors if the counts of this round call for it; let go of what waits for a silent one."""
    commands: list[Command] = []
    for tutor in phase.tutors:
        if not is_silenced(state, tutor, phase.student):
            commands += _judge(state, plan, phase, tutor)
        if is_silenced(state, tutor, phase.student):
            _let_go(state, plan, phase, tutor)
    return commands


def spoken_to(plan: Plan, act: SilenceAct) -> tuple[str, ...]:
    """Those about whose answers the tutor is to be silent."""
    return plan.peers_of(act.tutor) if act.student is None else (act.student,)


def silence_now(state: RunState, plan: Plan, act: SilenceAct) -> list[Command]:
    """A person silences a tutor for this round, with or without numbers that call for it."""
    commands: list[Command] = []
    for student in spoken_to(plan, act):
        if not is_silenced(state, act.tutor, student):
            # Between rounds there are no phases: it then holds from the student's next step on.
            phase = next((phase for phase in state.phases if phase.student == student), None)
            step = _step_of(phase) if phase else state.steps[student] + 1
            commands.append(_add(state, plan, student, act.tutor, step, act))
    return commands


def _judge(state: RunState, plan: Plan, phase: PhaseState, tutor: str) -> list[Command]:
    judgement = judge_tutor(break_count(state, plan, phase.student, tutor), plan.max_break_rate)
    if judgement is None or not judgement.silence:
        return []
    return [_add(state, plan, phase.student, tutor, _step_of(phase))]


def _step_of(phase: PhaseState) -> int:
    return phase.step.step if phase.step else phase.first_step + phase.steps_done - 1


def _add(state: RunState, plan: Plan, student: str, tutor: str, step: int, act: SilenceAct | None = None) -> Tell:
    count = break_count(state, plan, student, tutor)
    judgement = judge_tutor(count, plan.max_break_rate) or SilenceJudgement(0.0, 0.0, 0.0, plan.max_break_rate)
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
    return Tell(TutorSilenced(**UNSTAMPED, **silenced.model_dump()))


def break_count(state: RunState, plan: Plan, student: str, tutor: str) -> BreakCount:
    """Of this round: revisions of right rollouts whose prompt held this tutor's feedback."""
    rows = [
        row
        for row in state.tallies[student].revisions
        # Right ones alone: where nothing was right, nothing could be broken.
        if row.told and row.right and (row.round, row.tutor) == (state.round, tutor)
    ]
    return BreakCount(
        broke=sum(row.broke for row in rows),
        right=sum(row.right for row in rows),
        right_squares=sum(row.right_squares for row in rows),
        expected=sum(row.right * resampling_chance(row.wrong_rollouts, plan.rollout_samples) for row in rows),
    )


def _let_go(state: RunState, plan: Plan, phase: PhaseState, tutor: str) -> None:
    """Nothing of the open step waits for the tutor; where it has not been asked, another one may be."""
    for group in phase.step.groups if phase.step and not phase.step.sealed else []:
        if group.tutor != tutor:
            continue
        if group.feedback.status is JobStatus.NONE:
            group.tutor = tutor_of(state, plan, phase, domain=plan.domain_of(group.problem_id))
        # Feedback that is done stays: it is in the events already.
        elif group.feedback.open:
            group.feedback.status, group.feedback.reason = JobStatus.LOST, LOST_REASON
            add(state.tallies[phase.student].lost_feedback, LOST_REASON, 1)
