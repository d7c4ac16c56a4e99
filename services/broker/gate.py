"""The gate of a round: from validation scores to who may tutor. Pure; the rule is shared.method.gating."""

from collections.abc import Sequence

from services.broker.machine.plan import Plan
from shared.contracts.ids import seed_of
from shared.contracts.run import GateDecision, Score
from shared.errors import OpcodError
from shared.method import gating


def decide(plan: Plan, scores: Sequence[Score], *, round_: int, before: GateDecision | None = None) -> GateDecision:
    """Gaps in exact arithmetic over right samples (paper 3.2), with a bootstrap interval over problems.

    before: the last round's decision, which counts with hysteresis.
    Raises OpcodError if a student's validation score is missing: missing is never cognizant.
    """
    by_student = {score.student: score for score in scores}
    missing = [student for student in plan.students if student not in by_student]
    if missing:
        raise OpcodError(f"round {round_}: no validation score of student {', '.join(missing)}")
    counts = [{d: sum(by_student[s].correct[d]) for d in plan.domains} for s in plan.students]
    first = by_student[plan.students[0]]
    totals = {d: len(first.correct[d]) * first.samples for d in plan.domains}
    gaps = gating.gaps_exact(counts, totals)
    previous = [before.cognizant[student] for student in plan.students] if before is not None else None
    cognizant = gating.cognizant_counts(counts, totals, plan.tau, previous=previous, hysteresis=plan.hysteresis)
    samples = [by_student[student] for student in plan.students]
    intervals = gating.gap_interval(
        [{d: [count / score.samples for count in score.correct[d]] for d in plan.domains} for score in samples],
        seed=seed_of(plan.seed, round_, "gap"),
    )
    return GateDecision(
        round=round_,
        scores={s: {d: by_student[s].mean(d) for d in plan.domains} for s in plan.students},
        gaps={s: float(gap) for s, gap in zip(plan.students, gaps, strict=True)},
        gap_intervals=dict(zip(plan.students, intervals, strict=True)),
        cognizant=dict(zip(plan.students, cognizant, strict=True)),
        mode=plan.gate_mode,
        tau=plan.tau,
        hysteresis=plan.hysteresis,
    )
