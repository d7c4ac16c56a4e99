"""Which tutor speaks about a problem of a step: let through by the gate, not silenced, and chosen of several. Pure."""

from fractions import Fraction

from services.broker.machine.plan import Plan
from shared.contracts.run import GateDecision, PhaseState, RunState, Split
from shared.method.gating import GateMode, may_tutor
from shared.method.tutoring import TutorChoice, choose_tutor


def tutor_of(state: RunState, plan: Plan, phase: PhaseState, *, domain: str) -> str | None:
    """The tutor of the phase's student on a problem of this domain; None where nobody speaks."""
    gate = _gate_of(state)
    able = [
        tutor
        for tutor in phase.tutors
        if not is_silenced(state, tutor, phase.student)
        and may_tutor(
            GateMode(plan.gate_mode),
            gate.pair(tutor, phase.student).cognizant,
            problem_domain=domain,
            strong_domain=plan.strong_domain[tutor],
        )
    ]
    return choose_tutor(
        TutorChoice(plan.tutor_choice),
        able,
        peers=plan.peers_of(phase.student),
        domain=domain,
        strong_domain=plan.strong_domain,
        scores=_validated(state, domain) if len(able) > 1 else dict.fromkeys(able, Fraction(0)),
    )


def is_silenced(state: RunState, tutor: str, student: str) -> bool:
    """Whether this tutor may not speak to this tutee any more in this round."""
    return any((each.round, each.tutor, each.student) == (state.round, tutor, student) for each in state.silenced)


def _validated(state: RunState, domain: str) -> dict[str, Fraction]:
    """Each student's score of this round's validation."""
    return {
        score.student: Fraction(sum(score.correct[domain]), score.drawn(domain))
        for score in state.scores
        if score.split is Split.VALIDATION and score.round == state.round
    }


def _gate_of(state: RunState) -> GateDecision:
    if state.gate is None or state.gate.round != state.round:
        raise ValueError(f"round {state.round} is training without a gate decision")
    return state.gate
