"""Jobs, texts and tokens of a whole run, from its settings and problems. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from opcod.planning.lengths import Lengths
from shared.config.settings import STUDENTS, RunSettings
from shared.contracts.run import Split
from shared.problems.problem import Problem

Evaluated = Mapping[Split, Sequence[Problem]]


@dataclass(frozen=True)
class Work:
    """Of both students together. prompt_tokens: with prompts of the mean length and texts as long as they may get;
    output_tokens: if every text is as long as it may get.
    """

    kind: str
    jobs: int
    texts: int
    prompt_tokens: int
    output_tokens: int


def total_steps(settings: RunSettings) -> int:
    """Optimizer steps of both students."""
    return settings.run.rounds * settings.run.steps_per_round * len(STUDENTS)


def work_of(settings: RunSettings, training_problems: int, evaluated: Evaluated, lengths: Lengths) -> list[Work]:
    """A line for each kind of job; feedback and revisions as if both students may tutor in every round."""
    groups = total_steps(settings) * min(settings.problems.per_step, training_problems)
    samples, rollout = settings.rollout.samples, settings.rollout.max_tokens
    tutored = groups if settings.run.method == "opcod" and settings.gate.mode != "never" else 0
    revised = round(tutored * settings.feedback.revise_share)
    told = lengths.mean + lengths.feedback_extra + rollout
    shown = lengths.mean + lengths.teacher_extra + rollout + settings.feedback.max_tokens
    return [
        _work("rollout", groups, groups * samples, lengths.mean, rollout),
        _work("feedback", tutored, tutored * samples, told, settings.feedback.max_tokens),
        _work("revise", revised, revised * samples, shown, settings.evaluation.max_tokens),
        _evaluation(settings, evaluated, lengths, Split.VALIDATION, settings.run.rounds + 1),
        _evaluation(settings, evaluated, lengths, Split.TEST, 2),
    ]


def trained_tokens(settings: RunSettings, lengths: Lengths) -> int:
    """Tokens of the student's forward passes in a step, at most: prefixes that rows share are counted once a row."""
    rows = settings.problems.per_step * settings.rollout.samples
    return rows * (round(lengths.mean) + settings.rollout.max_tokens)


def _work(kind: str, jobs: int, texts: int, prompt: float, output: int) -> Work:
    return Work(kind, jobs, texts, round(texts * prompt), texts * output)


def _evaluation(settings: RunSettings, evaluated: Evaluated, lengths: Lengths, split: Split, times: int) -> Work:
    section, problems = settings.evaluation, len(evaluated[split])
    evaluations = times * len(STUDENTS)
    samples = section.test_samples if split is Split.TEST else section.validation_samples
    texts = evaluations * problems * samples
    return _work(
        f"eval ({split.value})",
        evaluations * -(-problems // section.problems_per_job),
        texts,
        lengths.mean,
        settings.evaluation.max_tokens,
    )
