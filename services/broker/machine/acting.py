"""What people do about exchanges and tutors: flag, exclude, silence. Pure.

What always holds: an act that comes twice is done once; one that cannot be done any more is refused with the reason,
and kept as refused; an exclusion is in the state before the batch is sealed, or not at all, so the batch agrees with
what was told; and it never falls on another text than the one it was made for.
"""

from dataclasses import dataclass
from typing import Literal

from services.broker.machine.books import tell_status
from services.broker.machine.moves import Asked, Command, KeepAct
from services.broker.machine.plan import Plan
from services.broker.machine.speaking import is_silenced
from services.broker.machine.watching import silence_now, spoken_to
from shared.contracts.acting import Act, ExchangeAct, ExchangeRef, SilenceAct
from shared.contracts.events import UNSTAMPED, Acted
from shared.contracts.run import GroupState, JobStatus, PhaseState, RunState, Status

REMEMBERED = 200
"""Ids of acts in the state; a message that comes again does so within seconds."""

INSTEAD = "flag it, or silence the tutor for the rest of the round"


@dataclass(frozen=True)
class Refusal:
    """Why something cannot be done. missing: there is no such thing; conflict: it is too late, or done already."""

    kind: Literal["missing", "conflict"]
    reason: str


def act_on(state: RunState, plan: Plan, event: Asked) -> list[Command]:
    """Do what was asked, or refuse it; either is kept and told."""
    act = event.act
    # The bus delivers at least once: the same act may come again.
    if act.id in state.acted:
        return []
    state.acted = [*state.acted, act.id][-REMEMBERED:]
    refusal = refusal_of(state, plan, act, sealed=event.sealed)
    refused = refusal.reason if refusal else None
    kept: list[Command] = [KeepAct(Acted(**UNSTAMPED, round=state.round, act=act, refused=refused))]
    if refusal is not None:
        return kept
    match act:
        case SilenceAct():
            return kept + silence_now(state, plan, act)
        case ExchangeAct(act="exclude", exchange=exchange):
            group = _open_group(state, exchange)
            assert group is not None
            group.excluded.append(exchange.sample)
            _seal_anew(state, exchange)
    return kept


def _seal_anew(state: RunState, exchange: ExchangeRef) -> None:
    """A group that was sealed ahead of its batch is another one now; a trainer that began with it begins again."""
    phase = _open_phase(state, exchange.student)
    if phase is not None and phase.step is not None:
        phase.step.ahead = [added for added in phase.step.ahead if added.problem_id != exchange.problem_id]


def check_exclusions(state: RunState, phase: PhaseState, group: GroupState) -> list[Command]:
    """An exclusion is of a text: where it was made again and came out as another one, it is taken back, and told."""
    # Taken out whatever comes of it: the comparison is made once, with the first output that comes again.
    excluded_from, group.excluded_from = group.excluded_from, None
    if phase.step is None or excluded_from in (None, group.feedback.output):
        return []
    keys = [
        ExchangeRef(student=phase.student, step=phase.step.step, problem_id=group.problem_id, sample=sample).key
        for sample in group.excluded
    ]
    group.excluded.clear()
    reason = f"no longer excluded, since it was made again and is another text: {', '.join(keys)}"
    return [tell_status(state, reason)]


def refusal_of(state: RunState, plan: Plan, act: Act, *, sealed: bool = False) -> Refusal | None:
    """sealed: the exchange's batch lies on disk, whatever the state says."""
    if isinstance(act, SilenceAct):
        return _silence_refusal(state, plan, act)
    exchange = act.exchange
    if exchange.student not in plan.students or exchange.sample >= plan.rollout_samples:
        return _no_exchange(exchange)
    phase = _open_phase(state, exchange.student)
    # Between two steps no step is open; the newest is then the last one done.
    newest = phase.step.step if phase and phase.step else state.steps[exchange.student]
    if exchange.step > newest:
        return _no_exchange(exchange)
    # A flag changes nothing that is trained on, so it is never too late for one.
    if act.act == "flag":
        return None
    return _exclude_refusal(state, exchange, sealed=sealed)


def _exclude_refusal(state: RunState, exchange: ExchangeRef, *, sealed: bool) -> Refusal | None:
    phase, group = _open_phase(state, exchange.student), _open_group(state, exchange)
    step = phase.step if phase else None
    if state.status is not Status.TRAINING or step is None or step.step != exchange.step or step.sealed or sealed:
        return Refusal("conflict", f"the batch of {exchange.key} is sealed, so the feedback is trained on: {INSTEAD}")
    if group is None:
        return _no_exchange(exchange)
    if group.tutor is None or group.feedback.status is not JobStatus.DONE:
        return Refusal("conflict", f"{exchange.key} has no feedback to exclude: none came yet, or none will")
    if exchange.sample in group.excluded:
        return Refusal("conflict", f"{exchange.key} is excluded already")
    return None


def _silence_refusal(state: RunState, plan: Plan, act: SilenceAct) -> Refusal | None:
    if act.tutor not in plan.students:
        return Refusal("missing", f"expected a tutor of {', '.join(plan.students)}, got {act.tutor!r}")
    tutees = spoken_to(plan, act)
    if not set(tutees) <= set(plan.peers_of(act.tutor)):
        return Refusal("missing", f"expected a tutee of {', '.join(plan.peers_of(act.tutor))}, got {act.student!r}")
    if state.status in (Status.FINAL_EVAL, Status.DONE, Status.FAILED):
        return Refusal("conflict", f"nobody tutors any more: the run is {state.status.value}")
    if all(is_silenced(state, act.tutor, student) for student in tutees):
        return Refusal("conflict", f"tutor {act.tutor} is silenced already in round {state.round}")
    return None


def _open_phase(state: RunState, student: str) -> PhaseState | None:
    return next((phase for phase in state.phases if phase.student == student), None)


def _open_group(state: RunState, exchange: ExchangeRef) -> GroupState | None:
    phase = _open_phase(state, exchange.student)
    groups = phase.step.groups if phase and phase.step and phase.step.step == exchange.step else []
    return next((group for group in groups if group.problem_id == exchange.problem_id), None)


def _no_exchange(exchange: ExchangeRef) -> Refusal:
    return Refusal("missing", f"there is no exchange {exchange.key}; the inspector's GET /v1/feedback lists them")
