"""Alarms: what a run looks like when training has gone wrong, seen from its last steps. Pure.

An alarm is told, counted and reported; it never stops a run. It stands while its condition holds, and is raised
again only after the condition was gone. The last is looked at in each step, the others over the last
`alarms.window` steps of one student:

- near_zero_gradient: every gradient norm is near zero though the loss is not small;
- reward_collapse: the mean reward is far below the best such stretch, by share and by standard errors over groups;
- answer_collapse: where rollouts are wrong, nearly all of a group are the same text;
- engine_drift: engine and trainer give the sampled tokens other log-probs, so they do not hold the same model.
"""

import math
from collections.abc import Iterator, Sequence

from services.broker.commands import AnnounceAlarm, Command
from shared.config.alarms import AlarmsSection
from shared.contracts.diagnostics import Alarm, AlarmName, AlarmWatch, RewardWindow, StepLook
from shared.contracts.run import RunState, StepState
from shared.contracts.weights import StepMetrics

Found = tuple[AlarmName, str | None]
"""An alarm, and why it stands; None if it does not."""


def look(
    state: RunState, settings: AlarmsSection, student: str, step: StepState, metrics: StepMetrics
) -> list[Command]:
    """Take a finished step into the student's watch; the alarms that it raises."""
    watch = state.watches.setdefault(student, AlarmWatch())
    flat = metrics.grad_norm < settings.min_grad_norm and metrics.loss > settings.min_loss
    seen = StepLook(rewards=step.rewards, flat=flat, delta_logprob=metrics.delta_logprob)
    watch.recent = [*watch.recent, seen][-settings.window :]
    commands: list[Command] = []
    for name, reason in _conditions(watch, settings):
        if reason is None and name in watch.standing:
            watch.standing.remove(name)
        elif reason is not None and name not in watch.standing:
            watch.standing.append(name)
            alarm = Alarm(student=student, alarm=name, round=state.round, step=step.step, reason=reason)
            state.alarms.append(alarm)
            commands.append(AnnounceAlarm(alarm))
    return commands


def _conditions(watch: AlarmWatch, settings: AlarmsSection) -> Iterator[Found]:
    yield "engine_drift", _engine_drift(watch.recent[-1], settings)
    if len(watch.recent) < settings.window:
        return
    yield "near_zero_gradient", _near_zero(watch.recent, settings)
    yield "reward_collapse", _reward_collapse(watch, settings)
    yield "answer_collapse", _answer_collapse(watch.recent, settings)


def _engine_drift(step: StepLook, settings: AlarmsSection) -> str | None:
    if step.delta_logprob <= settings.max_delta_logprob:
        return None
    return (
        f"mean |Δ log-prob| of engine and trainer is {step.delta_logprob:.3f} nats, above "
        f"{settings.max_delta_logprob:g}: they do not hold the same weights, template or temperature"
    )


def _near_zero(recent: Sequence[StepLook], settings: AlarmsSection) -> str | None:
    if not all(step.flat for step in recent):
        return None
    bounds = f"gradient norm below {settings.min_grad_norm:g} with a loss above {settings.min_loss:g}"
    return f"{bounds} for {len(recent)} steps"


def _reward_collapse(watch: AlarmWatch, settings: AlarmsSection) -> str | None:
    """Compares the last window with the best one, and takes it into account for the next time."""
    rewards = [step.rewards for step in watch.recent if step.rewards is not None]
    if len(rewards) < len(watch.recent):
        return None
    now = RewardWindow(
        mean=sum(each.mean for each in rewards) / len(rewards),
        variance=sum(each.variance for each in rewards) / len(rewards) ** 2,
    )
    best = watch.best
    if best is None or now.mean > best.mean:
        watch.best = now
    if best is None:
        return None
    fallen = best.mean - now.mean
    surely = fallen > settings.collapse_z * math.sqrt(best.variance + now.variance)
    if not surely or fallen < settings.collapse_drop * best.mean:
        return None
    return f"mean reward {now.mean:.3f} over {len(rewards)} steps, {best.mean:.3f} at its best"


def _answer_collapse(recent: Sequence[StepLook], settings: AlarmsSection) -> str | None:
    shares = [step.rewards.unique_share for step in recent if step.rewards is not None]
    known = [share for share in shares if share is not None]
    if len(known) < len(recent) or sum(known) / len(known) > settings.min_unique_share:
        return None
    share = sum(known) / len(known)
    return f"{100 * share:.0f} % of the rollouts in groups with a wrong one are distinct, over {len(recent)} steps"
