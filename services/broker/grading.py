"""Grading what came back. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from shared.contracts.jobs import PromptOutput
from shared.contracts.run import AnswerCounts
from shared.problems.formats import ProblemFormat
from shared.problems.problem import Problem


@dataclass(frozen=True)
class Graded:
    """correct: right samples by problem id, the score. answers: what stands beside it, by domain."""

    correct: dict[str, int]
    answers: dict[str, AnswerCounts]


def grade_evaluation(outputs: Sequence[PromptOutput], problems: Sequence[Problem], format_: ProblemFormat) -> Graded:
    """Grade the answers to `problems`, in their order. A truncated answer is graded like any other."""
    correct: dict[str, int] = {}
    answers: dict[str, AnswerCounts] = {}
    for problem, answered in zip(problems, outputs, strict=True):
        correct[problem.id] = sum(reward == 1.0 for reward in rewards(answered, problem, format_))
        counts = answer_counts(answered, problem, format_)
        answers[problem.domain] = answers.get(problem.domain, AnswerCounts()).plus(counts)
    return Graded(correct, answers)


def answer_counts(answered: PromptOutput, problem: Problem, format_: ProblemFormat) -> AnswerCounts:
    """What stands beside the score of one problem."""
    return AnswerCounts(
        lenient=sum(format_.grade_lenient(sample.text, problem.answer) == 1.0 for sample in answered.samples),
        format_ok=sum(format_.format_ok(sample.text) for sample in answered.samples),
        truncated=sum(sample.finish_reason == "length" for sample in answered.samples),
    )


def rewards(answered: PromptOutput, problem: Problem, format_: ProblemFormat) -> list[float]:
    """1.0 or 0.0 for each sample, in order."""
    return [format_.grade(sample.text, problem.answer) for sample in answered.samples]
