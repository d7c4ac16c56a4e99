"""How many tokens prompts have: measured with the student's tokenizer where it is on this machine, else estimated."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shared.config.settings import RunSettings
from shared.contracts.messages import ChatMessage
from shared.problems.problem import Problem, ProblemSet, spread

CHARACTERS_A_TOKEN = 2.5
"""An estimate on the safe side: English has about 4, formulas fewer."""
TOKENS_A_TURN = 8
"""What a chat template adds to a message, in the estimate."""
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
    domains = [settings.students[student].domain for student in ("a", "b")]
    asked = problems.format
    return (
        asked.messages(problem),
        asked.teacher_messages(problem, solution="x", feedback="x"),
        asked.feedback_messages(problem, "x", peer_domain=domains[0], agent_domain=domains[1]),
    )


def _sample(problems: Sequence[Problem]) -> Sequence[Problem]:
    """Problems spread evenly over the set, and the one with the longest question."""
    return [*spread(problems, MEASURED_AT_MOST), max(problems, key=lambda problem: len(problem.question))]
