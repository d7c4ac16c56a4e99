"""What a problem format is, and the formats there are, by name.

A format is everything that depends on how a problem is put into words: the prompts, how the answer is read
and graded, what a concept may be anchored in, what in a feedback would give the answer away.
Formats hold no state, so that one instance serves every thread.
"""

import difflib
from typing import Literal, Protocol

from shared.contracts.messages import ChatMessage
from shared.errors import ConfigError
from shared.problems.integer import IntegerFormat
from shared.problems.judgement import Judgement
from shared.problems.mcq import McqFormat
from shared.problems.naive import NaiveMcqFormat
from shared.problems.problem import Problem


class ProblemFormat(Protocol):
    """How problems of one style are asked, graded and given feedback on."""

    @property
    def name(self) -> str:
        """The name it is registered under."""
        ...

    @property
    def template_hash(self) -> str:
        """sha256 (hex) over the words of its prompts, so that a batch says which it was made with."""
        ...

    def refusal(self, problem: Problem) -> str | None:
        """Why this format cannot hold the problem (what was expected and what came), or None."""
        ...

    def messages(self, problem: Problem) -> list[ChatMessage]:
        """The prompt a student solves the problem from."""
        ...

    def teacher_messages(self, problem: Problem, *, solution: str | None, feedback: str | None) -> list[ChatMessage]:
        """The self-teacher's prompt: the problem with a solution s, a feedback f, both, or neither.

        With neither it equals `messages(problem)` (and the caller masks the sample out of the loss).
        """
        ...

    def feedback_messages(
        self, problem: Problem, response: str, *, peer_domain: str, agent_domain: str
    ) -> list[ChatMessage]:
        """The tutor's prompt for a feedback on `response` (paper C.1).

        `peer_domain` is the domain the tutor is strong in, `agent_domain` the tutee's.
        """
        ...

    def extract_answer(self, text: str) -> str:
        """The answer that a response commits to, "" if it gives none."""
        ...

    def grade(self, text: str, answer: str) -> float:
        """1.0 if the response's answer is `answer`, else 0.0."""
        ...

    def grade_lenient(self, text: str, answer: str) -> float:
        """1.0 if a tolerant reader finds `answer`, and always where `grade` gives 1.0. Shown, never the score."""
        ...

    def format_ok(self, text: str) -> bool:
        """Whether the response has the form that was asked for, right or wrong; True is good."""
        ...

    def anchor_text(self, problem: Problem) -> str:
        """The text that a feedback's concept must share a word with."""
        ...

    def judge_feedback(self, raw: str | None, problem: Problem) -> Judgement:
        """All that is decided about a raw feedback, from one review of it."""
        ...


FeedbackPrompt = Literal["anchored", "naive"]

_FORMATS: dict[str, ProblemFormat] = {form.name: form for form in (IntegerFormat(), McqFormat())}
_NAIVE: dict[str, ProblemFormat] = {form.name: form for form in (NaiveMcqFormat(),)}


def format_names() -> tuple[str, ...]:
    """The names `format_named` knows."""
    return tuple(sorted(_FORMATS))


def format_named(name: str, prompt: FeedbackPrompt = "anchored") -> ProblemFormat:
    """The format of that name, with that prompt for feedback; `ConfigError` naming the nearest one if there is none."""
    known = _FORMATS if prompt == "anchored" else _NAIVE
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    what = "a problem format" if prompt == "anchored" else f"a problem format with a {prompt} feedback prompt"
    raise ConfigError(f"expected {what} of {', '.join(sorted(known))}, got {name!r}{hint}")
