"""How many tokens prompts have, and the jobs, texts and tokens of a whole run. Pure.

Prompts are measured with the student's tokenizer where it is on this machine, else estimated.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from shared.config.settings import RunSettings
from shared.contracts.messages import ChatMessage
from shared.contracts.run import Split
from shared.problems.problem import Problem, ProblemSet, spread

# An estimate on the safe side: English has about 4, formulas fewer.
CHARACTERS_A_TOKEN = 2.5
# What a chat template adds to a message, in the estimate.
TOKENS_A_TURN = 8
# Problems whose prompts are tokenized, spread over all, and the longest besides: a large set is planned as soon.
MEASURED_AT_MOST = 200

Count = Callable[[Sequence[ChatMessage]], int]


@dataclass(frozen=True)
class Lengths:
    """Tokens of prompts. own: the student's, mean and longest; teacher, feedback: what their prompts have beyond the
    problem and the texts in them, at most. problems: how many were measured.
    """

    mean: float
    longest: int
    teacher_extra: int
    feedback_extra: int
    problems: int
    measured: bool


def estimate(messages: Sequence[ChatMessage]) -> int:
    """Tokens of a prompt without a tokenizer."""
    return sum(TOKENS_A_TURN + round(len(turn.content) / CHARACTERS_A_TOKEN) for turn in messages) + TOKENS_A_TURN


def prompt_lengths(problems: ProblemSet, settings: RunSettings, count: Count | None) -> Lengths:
    """count: the tokens of a prompt; None estimates them from its characters."""
    counted = count or estimate
    chosen = _sample(tuple(problems.all_problems()))
    own = [counted(problems.format.messages(problem)) for problem in chosen]
    longest = chosen[own.index(max(own))]
    _, teacher, feedback = map(counted, prompts_of(longest, problems, settings))
    return Lengths(
        mean=sum(own) / len(own),
        longest=max(own),
        teacher_extra=max(0, teacher - max(own)),
        feedback_extra=max(0, feedback - max(own)),
        problems=len(chosen),
        measured=count is not None,
    )


def prompts_of(
    problem: Problem, problems: ProblemSet, settings: RunSettings
) -> tuple[Sequence[ChatMessage], Sequence[ChatMessage], Sequence[ChatMessage]]:
    """Of each kind that a run asks one, with next to nothing in it but the problem: own, teacher's, feedback's."""
    asked = problems.format
    return (
        asked.messages(problem),
        asked.teacher_messages(problem, solution="x", feedback="x"),
        asked.feedback_messages(problem, "x", peer_domain=settings.domains[0], agent_domain=settings.domains[-1]),
    )


def _sample(problems: Sequence[Problem]) -> Sequence[Problem]:
    """Problems spread evenly over the set, and the one with the longest question."""
    # The longest one besides: a memory plan hangs on it.
    return [*spread(problems, MEASURED_AT_MOST), max(problems, key=lambda problem: len(problem.question))]


Evaluated = Mapping[Split, Sequence[Problem]]


@dataclass(frozen=True)
class Work:
    """Of all students together. prompt_tokens: with prompts of the mean length and texts as long as they may get;
    output_tokens: if every text is as long as it may get.
    """

    kind: str
    jobs: int
    texts: int
    prompt_tokens: int
    output_tokens: int


def total_steps(settings: RunSettings) -> int:
    """Optimizer steps of all students."""
    return settings.run.rounds * settings.run.steps_per_round * len(settings.students)


def work_of(settings: RunSettings, training_problems: int, evaluated: Evaluated, lengths: Lengths) -> list[Work]:
    """A line for each kind of job; feedback and revisions as if all students may tutor in every round."""
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
        # At the start of each round and once at the end; test before and after the run.
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
    evaluations = times * len(settings.students)
    samples = section.test_samples if split is Split.TEST else section.validation_samples
    texts = evaluations * problems * samples
    return _work(
        f"eval ({split.value})",
        evaluations * -(-problems // section.problems_per_job),
        texts,
        lengths.mean,
        settings.evaluation.max_tokens,
    )
