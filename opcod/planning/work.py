"""How many tokens prompts have, and the jobs, texts and tokens of a whole run. Pure.

Prompts are measured with the student's tokenizer where it is on this machine, else estimated.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from shared.config.settings import RunSettings
from shared.contracts.messages import ChatMessage
from shared.contracts.run import Split
from shared.errors import PromptError, shown
from shared.problems.problem import Problem, ProblemSet, spread

# An estimate on the safe side: English has about 4, formulas fewer.
CHARACTERS_A_TOKEN = 2.5
# What a chat template adds to a message, in the estimate.
TOKENS_A_TURN = 8
# Problems whose prompts are tokenized, spread over all, and those besides that look longest: a large set is planned as
# soon.
MEASURED_AT_MOST = 200
LONGEST_LOOKED_AT = 150

# About as tokenizers cut: digits and signs, as of formulas, stand alone, and of other scripts often every character.
_PIECES = re.compile(r"[A-Za-z]{1,6}|[^\sA-Za-z]")

Count = Callable[[Sequence[ChatMessage]], int]


@dataclass(frozen=True)
class Lengths:
    """Tokens of prompts. own: the student's, mean and longest; teacher, feedback: what their prompts have beyond the
    problem and the texts in them, at most. problems: how many were measured for the mean.
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
    """count: the tokens of a prompt; None estimates them from its characters. Raises PromptError naming the problem."""
    counted = count or estimate
    every = tuple(problems.all_problems())
    tokens: dict[str, int] = {}
    for problem in (*spread(every, MEASURED_AT_MOST), *_longest(every, problems)):
        if problem.id not in tokens:
            tokens[problem.id] = _counted(counted, problem, problems)
    own = [tokens[problem.id] for problem in spread(every, MEASURED_AT_MOST)]
    longest = max(tokens.values())
    widest = next(problem for problem in every if tokens.get(problem.id) == longest)
    _, teacher, feedback = map(counted, prompts_of(widest, problems, settings))
    return Lengths(
        mean=sum(own) / len(own),
        longest=longest,
        teacher_extra=max(0, teacher - longest),
        feedback_extra=max(0, feedback - longest),
        problems=len(own),
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


def prompts_asked(problems: ProblemSet, settings: RunSettings) -> Iterator[Sequence[ChatMessage]]:
    """One of each kind that a run of these settings asks, for each order of roles that a row's own prompt has: some
    have a system's."""
    by_roles: dict[tuple[str, ...], Problem] = {}
    for problem in problems.all_problems():
        by_roles.setdefault(tuple(turn.role for turn in problems.format.messages(problem)), problem)
    method = settings.run.method
    tutored = method == "opcod" and settings.gate.mode != "never"
    for problem in by_roles.values():
        own, teacher, feedback = prompts_of(problem, problems, settings)
        yield own
        yield from [teacher] if method in ("opcod", "sdpo") else []
        yield from [feedback] if tutored else []


def refused_prompt(student: str, error: PromptError) -> str:
    """Of a kind of `prompts_asked` that the student's chat template does not take."""
    return (
        f"student {student}: {error}; set students.{student}.chat_template to one that takes them, such as "
        '"compact", or choose another model'
    )


def _counted(count: Count, problem: Problem, problems: ProblemSet) -> int:
    try:
        return count(problems.format.messages(problem))
    except PromptError as error:
        raise PromptError(f"problem {shown(problem.id)}: {error}") from error


def _longest(every: Sequence[Problem], problems: ProblemSet) -> Sequence[Problem]:
    """Those among which the longest prompt is: memory hangs on it, and a run ends at one that is too long."""
    texts = {problem.id: "\n".join(turn.content for turn in problems.format.messages(problem)) for problem in every}
    by_bytes = sorted(every, key=lambda problem: len(texts[problem.id].encode()), reverse=True)
    by_pieces = sorted(every, key=lambda problem: len(_PIECES.findall(texts[problem.id])), reverse=True)
    return [*by_bytes[:LONGEST_LOOKED_AT], *by_pieces[:LONGEST_LOOKED_AT]]


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
    revising = lengths.mean + lengths.teacher_extra + rollout + settings.feedback.max_tokens
    return [
        _work("rollout", groups, groups * samples, lengths.mean, rollout),
        _work("feedback", tutored, tutored * samples, told, settings.feedback.max_tokens),
        _work("revise", revised, revised * samples, revising, settings.evaluation.max_tokens),
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
