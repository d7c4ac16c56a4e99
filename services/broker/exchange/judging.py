"""From a tutor's raw output to what the tutee may see: verdicts and sanitizing are the broker's alone. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from shared.contracts.jobs import JobOutput, PromptOutput
from shared.problems.formats import ProblemFormat
from shared.problems.problem import Problem

LOST = "fb_none"


@dataclass(frozen=True)
class Exchange:
    """One rollout's feedback. delivered is None unless the verdict is a match, or `unanchored`."""

    verdict: str
    raw: str | None
    delivered: str | None
    removed: tuple[str, ...] = ()


def distinct(texts: Sequence[str], *, share_identical: bool) -> tuple[list[str], list[int]]:
    """(texts to send, index into them for each rollout). Without sharing each rollout has its own."""
    if not share_identical:
        return list(texts), list(range(len(texts)))
    unique = list(dict.fromkeys(texts))
    return unique, [unique.index(text) for text in texts]


def exchanges(
    rollouts: PromptOutput,
    feedback: JobOutput | None,
    problem: Problem,
    format_: ProblemFormat,
    *,
    share_identical: bool,
) -> list[Exchange]:
    """One exchange for each rollout, in order. Feedback that never came is `fb_none` for all."""
    if feedback is None:
        return [Exchange(LOST, None, None) for _ in rollouts.samples]
    _, index = distinct([sample.text for sample in rollouts.samples], share_identical=share_identical)
    judged = [judge(output.samples[0].text, problem, format_) for output in feedback.prompts]
    return [judged[position] for position in index]


def judge(raw: str, problem: Problem, format_: ProblemFormat) -> Exchange:
    """Verdict and sanitized text of one raw feedback (paper 3.3 and table 3)."""
    judged = format_.judge_feedback(raw, problem)
    return Exchange(judged.verdict, raw, judged.delivered, judged.removed)


def verdict_word(verdict: str) -> str:
    """The verdict without its matched word, as it is counted."""
    return verdict.partition(":")[0]
