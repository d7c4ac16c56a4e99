"""The evaluations of a status: validation each round for the gate, test before and after for the report. Pure."""

from services.broker.commands import AnnounceScore, Command, Forget, IssueEval, Serve
from services.broker.lookup import chunk_job_id
from services.broker.machine.books import enter, serve_set, to_issue
from services.broker.machine.plan import Plan
from shared.bus.keys import eval_payloads
from shared.contracts.run import AnswerCounts, EvalState, JobState, RunState, Score, Split, Status


def evaluate(state: RunState, plan: Plan, at: float, *, after: Status) -> list[Command]:
    commands: list[Command] = []
    if not state.evals:
        state.evals = [
            _new_eval(state, plan, student, split) for split in _splits(state, plan) for student in plan.students
        ]
        commands += [Serve(student, *serve_set(state, student)) for student in plan.students]
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
        commands += [AnnounceScore(score) for score in scores]
        commands += [
            Forget(eval_payloads(evaluation.student, evaluation.round, evaluation.split.value))
            for evaluation in state.evals
        ]
        commands.append(enter(state, after, at))
        state.evals = []
    return commands


def _splits(state: RunState, plan: Plan) -> list[Split]:
    """Validation each round for the gate; test before the first round and at the end, for the report."""
    wanted = [Split.VALIDATION]
    if state.status is Status.FINAL_EVAL or not state.scores:
        wanted.append(Split.TEST)
    return [split for split in wanted if plan.partitions[split]]


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
