"""Judging what was said, and what came of it. Pure.

A tutor's raw output becomes a verdict and what the tutee may see of it; nobody but the broker does that. A group's
revisions become counts of what they did to its rollouts: fixed, broke or kept, with and without the tutor's feedback.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from shared.contracts.diagnostics import RevisionCount
from shared.contracts.jobs import JobOutput, PromptOutput
from shared.method.anchoring import FB_NONE
from shared.problems.problem import Problem, ProblemFormat


@dataclass(frozen=True)
class JudgedFeedback:
    """One rollout's feedback. delivered is None unless the verdict is a match, or `unanchored`."""

    verdict: str
    raw: str | None
    delivered: str | None
    removed: tuple[str, ...] = ()


def distinct(texts: Sequence[str], *, share_identical: bool) -> tuple[list[str], list[int]]:
    """(texts to send, index into them for each rollout). Without sharing each rollout has its own."""
    if not share_identical:
        return list(texts), list(range(len(texts)))
    # In order of first appearance, never a set: the order of prompts decides which seed each one gets.
    unique = list(dict.fromkeys(texts))
    return unique, [unique.index(text) for text in texts]


def exchanges(
    rollouts: PromptOutput,
    feedback: JobOutput | None,
    problem: Problem,
    format_: ProblemFormat,
    *,
    share_identical: bool,
) -> list[JudgedFeedback]:
    """One exchange for each rollout, in order. Feedback that never came is `fb_none` for all."""
    if feedback is None:
        return [JudgedFeedback(FB_NONE, None, None) for _ in rollouts.samples]
    _, index = distinct([sample.text for sample in rollouts.samples], share_identical=share_identical)
    judged = [judge(output.samples[0].text, problem, format_) for output in feedback.prompts]
    # Identical rollouts share one feedback, and each has it as its own.
    return [judged[position] for position in index]


def judge(raw: str, problem: Problem, format_: ProblemFormat) -> JudgedFeedback:
    """Verdict and sanitized text of one raw feedback (paper 3.3 and table 3)."""
    judged = format_.judge_feedback(raw, problem)
    return JudgedFeedback(judged.verdict, raw, judged.delivered, judged.removed)


def verdict_word(verdict: str) -> str:
    """The verdict without its matched word, as it is counted."""
    return verdict.partition(":")[0]


@dataclass(frozen=True)
class JudgedRevision:
    """One rollout before and after. told: its revision's prompt held the tutor's feedback. answered: there is a
    revision; without one, as its prompt was too long, nothing follows."""

    before: bool
    after: bool
    told: bool
    answered: bool = True

    @property
    def outcome(self) -> str:
        """The name of its count in RevisionCount."""
        if self.before:
            return "kept_right" if self.after else "broke"
        return "fixed" if self.after else "kept_wrong"


def count_group(revised: Sequence[JudgedRevision], *, round_: int, tutor: str) -> tuple[RevisionCount, ...]:
    """The counts of one group whose every rollout was to be revised: at most one with and one without feedback."""
    wrong = sum(not each.before for each in revised)
    counts = []
    # Apart: what a second try does by itself must not be booked as the tutor's doing.
    for told in (True, False):
        alike = [each for each in revised if each.told is told and each.answered]
        outcomes = Counter(each.outcome for each in alike)
        if alike:
            right_here = sum(each.before for each in alike)
            counts.append(
                RevisionCount(
                    round=round_,
                    tutor=tutor,
                    told=told,
                    wrong_rollouts=wrong,
                    groups=1,
                    right_squares=right_here**2,
                    wrong_squares=(len(alike) - right_here) ** 2,
                    **outcomes,
                )
            )
    return tuple(counts)
