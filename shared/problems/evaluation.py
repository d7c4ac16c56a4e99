"""What a student is scored on, and what its answers are worth: the same rules for a run's rounds and for `opcod eval`.

Pure. The score is strict grading alone; what a tolerant reader finds, the form and the length stand beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from shared.config.settings import RunSettings
from shared.contracts.jobs import PromptOutput
from shared.contracts.run import AnswerCounts, Split
from shared.errors import ConfigError
from shared.method.metrics import majority_baseline
from shared.problems.problem import Problem, ProblemFormat, ProblemSet, spread_over_kinds


def evaluated_problems(settings: RunSettings, problems: ProblemSet) -> dict[Split, tuple[Problem, ...]]:
    """The problems of a run's evaluations, in the order in which they are asked. Raises ConfigError if they lack."""
    evaluation = settings.evaluation
    return {
        split: per_domain(problems, partition, limit, setting=f"evaluation.{split.value}_problems", where=split.value)
        for split, partition, limit in (
            (Split.VALIDATION, problems.validation, evaluation.validation_problems),
            (Split.TEST, problems.test, evaluation.test_problems),
        )
    }


def per_domain(
    problems: ProblemSet, partition: tuple[Problem, ...], limit: int | None, *, setting: str = "", where: str = ""
) -> tuple[Problem, ...]:
    """`limit` problems of each domain, domain by domain: of each kind its share, rounded, spread over the partition.

    setting, where: of the limit and of the partition, for messages. Raises ConfigError.
    """
    chosen: list[Problem] = []
    for domain in problems.domains:
        of_domain = [problem for problem in partition if problem.domain == domain]
        if limit is not None and limit > len(of_domain):
            raise ConfigError(
                f"expected at least {limit} problems of {domain} to evaluate on in the partition {where}, got "
                f"{len(of_domain)}: set {setting} to at most {len(of_domain)}, or add some to the partition"
            )
        chosen += [of_domain[at] for at in spread_over_kinds([problem.kind for problem in of_domain], limit)]
    return tuple(chosen)


def majority_by_domain(problems: Sequence[Problem], domains: Sequence[str]) -> dict[str, float]:
    """What the best constant answer scores, in each of `domains` that has problems."""
    answers = {domain: [problem.answer for problem in problems if problem.domain == domain] for domain in domains}
    return {domain: majority_baseline(gold) for domain, gold in answers.items() if gold}


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
        # Rewards are exactly 0 or 1, so comparing floats is safe.
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
