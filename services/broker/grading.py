"""Grading what came back. Pure."""

from collections.abc import Sequence

from shared.contracts.jobs import JobOutput, PromptOutput
from shared.problems.formats import ProblemFormat
from shared.problems.problem import Problem


def grade_evaluation(
    output: JobOutput, problems: Sequence[Problem], format_: ProblemFormat
) -> tuple[dict[str, int], int]:
    """(right samples by problem id, truncated samples). A truncated answer is graded like any other."""
    correct = {
        problem.id: sum(reward == 1.0 for reward in rewards(answered, problem, format_))
        for problem, answered in zip(problems, output.prompts, strict=True)
    }
    truncated = sum(s.finish_reason == "length" for answered in output.prompts for s in answered.samples)
    return correct, truncated


def rewards(answered: PromptOutput, problem: Problem, format_: ProblemFormat) -> list[float]:
    """1.0 or 0.0 for each sample, in order."""
    return [format_.grade(sample.text, problem.answer) for sample in answered.samples]
