"""The stages of a round: what to do next, derived from the state alone. Pure.

- `evaluate`: validation each round, for the gate; test before the first round and after the last, for the report. With
  `keep_best` the last test waits for the last validation, and is of the version that was best in any.
- `decide`: the gate of a round, from validation scores to who may tutor; the rule itself is shared.method.gating.
- `advance`: from one status to the next, as far as the state allows.

Each thing is marked as issued in the state in the same move that issues it, so deriving again issues nothing
twice. All tutors are frozen at the round's start, so the phases of a round are independent; with `latest_tutor`
they are frozen when their pupil's phase begins.
"""

from collections.abc import Mapping, Sequence

from services.broker.machine.books import end_stage, enter, serve_set, to_issue
from services.broker.machine.moves import Command, Forget, IssueEval, Serve, Tell
from services.broker.machine.phases import advance_phase
from services.broker.machine.plan import Plan
from services.broker.machine.watching import look_at_scores
from shared.bus.keys import eval_payloads
from shared.contracts.events import UNSTAMPED, Evaluated, GateDecided
from shared.contracts.ids import seed_of
from shared.contracts.run import (
    AnswerCounts,
    EvalState,
    GateDecision,
    JobState,
    JobStatus,
    PairGate,
    PhaseState,
    RunState,
    Score,
    Split,
    Status,
)
from shared.contracts.targets import chunk_job_id
from shared.errors import OpcodError
from shared.method import gating
from shared.results.figures import best_validated


def decide(plan: Plan, scores: Sequence[Score], *, round_: int, before: GateDecision | None = None) -> GateDecision:
    """Gaps in exact arithmetic over right samples (paper 3.2), with a bootstrap interval over problems.

    before: the last round's decision, which counts with hysteresis.
    Raises OpcodError if a student's validation score is missing: missing is never cognizant.
    """
    by_student = {score.student: score for score in sorted(scores, key=lambda score: score.student)}
    missing = [student for student in plan.students if student not in by_student]
    if missing:
        raise OpcodError(f"round {round_}: no validation score of student {', '.join(missing)}")
    counts = {s: {d: sum(by_student[s].correct[d]) for d in plan.domains} for s in plan.students}
    first = by_student[plan.students[0]]
    # All students answered the same problems, so the totals of one are those of the others.
    totals = {d: len(first.correct[d]) * first.samples for d in plan.domains}
    overall = dict(zip(plan.students, gating.gaps_exact(list(counts.values()), totals), strict=True))
    over_all = _intervals(plan, by_student, round_, gating.GateScope.ALL)
    intervals = dict.fromkeys(plan.students, (0.0, 0.0))  # of one that is alone
    intervals |= {s: each for (s, _), each in over_all.items()}
    scope = gating.GateScope(plan.gate_scope)
    # Two thousand resamples of all problems, for which the broker answers nobody: once, where once is enough.
    of_pairs = over_all if gating.compares_all(scope, plan.students) else _intervals(plan, by_student, round_, scope)
    pairs = _pairs(plan, counts, totals, of_pairs, before=before)
    return GateDecision(
        round=round_,
        scores={s: {d: by_student[s].mean(d) for d in plan.domains} for s in plan.students},
        gaps={s: float(gap) for s, gap in overall.items()},
        gap_intervals=intervals,
        cognizant={s: any(pair.cognizant for pair in pairs if pair.tutor == s) for s in plan.students},
        mode=plan.gate_mode,
        tau=plan.tau,
        hysteresis=plan.hysteresis,
        scope=plan.gate_scope,
        pairs=pairs,
    )


def _pairs(
    plan: Plan,
    counts: Mapping[str, Mapping[str, int]],
    totals: Mapping[str, int],
    intervals: Mapping[gating.Pair, tuple[float, float]],
    *,
    before: GateDecision | None,
) -> list[PairGate]:
    """Of every tutor and tutee whether it may tutor."""
    # Fractions, not floats: a gap that is exactly tau must not fall to either side by rounding.
    gaps = gating.pair_gaps(counts, plan.strong_domain, totals, gating.GateScope(plan.gate_scope))
    return [
        PairGate(
            tutor=tutor,
            student=student,
            gap=float(gap),
            interval=intervals[tutor, student],
            cognizant=gating.is_cognizant(
                gap,
                plan.tau,
                before=before.pair(tutor, student).cognizant if before is not None else None,
                hysteresis=plan.hysteresis,
            ),
        )
        for (tutor, student), gap in gaps.items()
    ]


def _intervals(
    plan: Plan, scores: Mapping[str, Score], round_: int, scope: gating.GateScope
) -> dict[gating.Pair, tuple[float, float]]:
    means = {
        student: {d: [count / score.samples for count in score.correct[d]] for d in plan.domains}
        for student, score in scores.items()
    }
    # Drawn from the run's seed and the round: a broker that decides the same gate once more gets the same interval.
    return gating.gap_intervals(means, plan.strong_domain, scope, seed=seed_of(plan.seed, round_, "gap"))


def evaluate(state: RunState, plan: Plan, at: float, *, after: Status) -> list[Command]:
    commands: list[Command] = []
    # Empty means not begun: `evals` is cleared when the last one is scored.
    if not state.evals:
        commands += _begin_evals(state, plan, _splits(state, plan))
    for evaluation in state.evals:
        for index, chunk in enumerate(evaluation.chunks):
            if not to_issue(state, chunk, f"evaluation of {evaluation.student} on {evaluation.split.value}"):
                continue
            commands.append(
                IssueEval(
                    chunk_job_id(evaluation, index),
                    evaluation.student,
                    evaluation.version,
                    evaluation.round,
                    evaluation.split,
                    index,
                    evaluation.samples,
                )
            )
    if all(evaluation.finished for evaluation in state.evals):
        scores = [_score(evaluation, plan) for evaluation in state.evals]
        state.scores += scores
        commands += [tell_score(score) for score in scores]
        commands += look_at_scores(state, plan, scores)
        commands += [
            Forget(eval_payloads(evaluation.student, evaluation.round, evaluation.split.value))
            for evaluation in state.evals
        ]
        state.evals = []
        chosen = state.status is Status.FINAL_EVAL and plan.keep_best and scores[0].split is Split.VALIDATION
        if chosen:
            _make_best_live(state, plan)
            return commands + _begin_evals(state, plan, [Split.TEST]) + evaluate(state, plan, at, after=after)
        commands.append(enter(state, after, at))
    return commands


def _begin_evals(state: RunState, plan: Plan, splits: Sequence[Split]) -> list[Command]:
    state.evals = [_new_eval(state, plan, student, split) for split in splits for student in plan.students]
    return [Serve(student, *serve_set(state, student)) for student in plan.students]


def _splits(state: RunState, plan: Plan) -> list[Split]:
    """Validation each round for the gate; test before the first round and at the end, for the report."""
    wanted = [Split.VALIDATION]
    # A version that is yet to be chosen by its validation is tested after it.
    if (state.status is Status.FINAL_EVAL and not plan.keep_best) or not state.scores:
        wanted.append(Split.TEST)
    return [split for split in wanted if plan.partitions[split]]


def _make_best_live(state: RunState, plan: Plan) -> None:
    for student in plan.students:
        best = best_validated(state.scores, student)
        if best is not None:
            state.version[student] = best.version


def _new_eval(state: RunState, plan: Plan, student: str, split: Split) -> EvalState:
    final = state.status is Status.FINAL_EVAL
    return EvalState(
        student=student,
        version=state.version[student],
        split=split,
        round=state.round + 1 if final else state.round,
        samples=plan.samples[split],
        chunks=[JobState() for _ in range(plan.chunks(split))],
    )


def _score(evaluation: EvalState, plan: Plan) -> Score:
    problems = plan.partitions[evaluation.split]
    return Score(
        student=evaluation.student,
        version=evaluation.version,
        split=evaluation.split,
        round=evaluation.round,
        samples=evaluation.samples,
        correct={
            domain: [evaluation.correct[problem.id] for problem in problems if problem.domain == domain]
            for domain in plan.domains
        },
        answers={domain: evaluation.answers.get(domain, AnswerCounts()) for domain in plan.domains},
        majority=plan.majority[evaluation.split],
    )


def tell_score(score: Score) -> Tell:
    return Tell(
        Evaluated(
            **UNSTAMPED,
            student=score.student,
            version=score.version,
            split=score.split.value,
            round=score.round,
            scores={domain: score.mean(domain) for domain in score.correct},
        )
    )


def advance(state: RunState, plan: Plan, at: float) -> list[Command]:
    """All commands that the state calls for, going through as many statuses as it allows."""
    commands: list[Command] = []
    # A status may be over as soon as it is entered, so go on until one has to wait; a job lost twice pauses in between.
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
                # After the last round, so scores are booked under a round of their own (`_new_eval`).
                commands += evaluate(state, plan, at, after=Status.DONE)
        if state.status is status:
            break
    return commands


def _freeze(state: RunState, plan: Plan, at: float) -> list[Command]:
    """Decide the gate and freeze the students as they are now as this round's tutors."""
    current = [s for s in state.scores if s.split is Split.VALIDATION and s.round == state.round]
    decision = decide(plan, current, round_=state.round, before=state.gates[-1] if state.gates else None)
    state.gate = decision
    state.gates.append(decision)
    state.phases = [
        PhaseState(
            student=student,
            tutors={tutor: state.version[tutor] for tutor in plan.peers_of(student)},
            first_step=state.steps[student] + 1,
            steps=plan.steps_per_round,
        )
        for student in plan.students
    ]
    announced = enter(state, Status.TRAINING, at)
    # After `enter`: in training, what is served includes the tutors' versions.
    serve = [Serve(student, *serve_set(state, student)) for student in plan.students]
    return [Tell(GateDecided(**UNSTAMPED, decision=decision)), announced, *serve]


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
    """Redis has nothing of the open work: make it again with the same ids and seeds; sealed batches stay sealed."""
    for evaluation in state.evals:
        for chunk in evaluation.chunks:
            if chunk.open:
                chunk.status = JobStatus.NONE
    for phase in state.phases:
        # What was being revised is not made again: revisions are measured, and no step waits for them.
        phase.open_revisions.clear()
        # No payload is left, so there is nothing to forget.
        phase.kept_steps.clear()
        if phase.step is None or phase.step.done_version is not None:
            continue
        phase.step.sealed = False
        phase.step.ahead.clear()
        on_disk = sealed.get(phase.student, 0) >= phase.step.step
        for group in phase.step.groups:
            # Made again, the feedback may be another text: what was excluded is compared when it comes.
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
