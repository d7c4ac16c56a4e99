"""The `mcq` format: multiple choice as SciKnowEval's rows have it, with the paper's full prompts.

A question holds its options and ends with a fixed line that asks for reasoning; the system message tells the
answer's shape. What always holds: both reach the student byte for byte. `NaiveMcqFormat` is the same with the naive
feedback prompt, for the ablation.
"""

import hashlib
import re

from shared.contracts.messages import ChatMessage
from shared.errors import shown
from shared.method import anchoring, grading, reprompt, tutor_prompt
from shared.problems.letter_reveals import split_letter_reveals
from shared.problems.problem import Judgement, Problem, judged_without

_LETTER = re.compile(r"[A-J]")
"""Those that `shared.method.reveals` takes out of feedback."""


_OPTION = re.compile(r"^([A-J]): ", re.MULTILINE)
_MARKED_LETTER = re.compile(r"[\W_]{0,8}([A-Ja-j])[\W_]{0,8}")


def _letter_of(answer: str, question: str) -> str:
    """How an answer is to be written that is a letter with something around it, or the text of an option."""
    marked = _MARKED_LETTER.fullmatch(answer)
    texts = {line.partition(": ")[2].strip(): line[0] for line in question.split("\n") if _OPTION.match(line)}
    letter = marked[1].upper() if marked else texts.get(answer.strip())
    return f"; write it as '{letter}'" if letter else ""


def _found_of(letter: str, question: str) -> str:
    """What stands there in place of the option's line."""
    other = re.search(rf"^[ \t]*[(\[]?{letter}[ \t]*[)\].:：](.{{0,80}})", question, re.MULTILINE)
    if other is None:
        return "found none"
    return f"found {shown(other[0])}; write it as '{letter}: {other[1].strip()[:20]}', and the other options so"


class McqFormat:
    """Multiple-choice questions answered by an option letter in an answer block."""

    name = "mcq"
    template_hash = hashlib.sha256(
        f"{reprompt.TEMPLATE_HASH}{tutor_prompt.FEEDBACK_TEMPLATE_HASH}".encode()
    ).hexdigest()

    def refusal(self, problem: Problem) -> str | None:
        """See `ProblemFormat.refusal`: the answer must be the letter of one of the options in the question."""
        if not _LETTER.fullmatch(problem.answer):
            return (
                f"the format mcq expects one capital letter from A to J as answer, got {shown(problem.answer)}"
                f"{_letter_of(problem.answer, problem.question)}"
            )
        # One letter by now, so nothing in it needs escaping.
        if not re.search(rf"^{problem.answer}: ", problem.question, re.MULTILINE):
            return (
                f"the format mcq expects an option line '{problem.answer}: …' in the question, "
                f"{_found_of(problem.answer, problem.question)}"
            )
        if len(set(_OPTION.findall(problem.question))) < 2:
            return (
                f"the format mcq expects two or more option lines in the question, 'A: …' and 'B: …', got one, "
                f"'{problem.answer}: …'; write the others so, too"
            )
        return None

    def messages(self, problem: Problem) -> list[ChatMessage]:
        """The row's system message, if it has one, and the question, unchanged."""
        system = [] if problem.system is None else [ChatMessage(role="system", content=problem.system)]
        return [*system, ChatMessage(role="user", content=problem.question)]

    def teacher_messages(self, problem: Problem, *, solution: str | None, feedback: str | None) -> list[ChatMessage]:
        """The published re-prompt: the question, a solution section, a feedback section, a closing request."""
        prompt = [{"role": turn.role, "content": turn.content} for turn in self.messages(problem)]
        turns = reprompt.teacher_messages(prompt, solution=solution, feedback=feedback)
        return [ChatMessage.model_validate(turn) for turn in turns]

    def feedback_messages(
        self, problem: Problem, response: str, *, peer_domain: str, agent_domain: str
    ) -> list[ChatMessage]:
        """The paper's feedback prompt (C.1) as one user turn."""
        prompt = tutor_prompt.feedback_prompt(
            problem.question, response, peer_domain=peer_domain, agent_domain=agent_domain
        )
        return [ChatMessage(role="user", content=prompt)]

    def extract_answer(self, text: str) -> str:
        """See `grading.extract_answer`."""
        return grading.extract_answer(text)

    def grade(self, text: str, answer: str) -> float:
        """See `grading.grade`."""
        return grading.grade(text, answer)

    def grade_lenient(self, text: str, answer: str) -> float:
        """See `grading.lenient_grade`."""
        return grading.lenient_grade(text, answer)

    def format_ok(self, text: str) -> bool:
        """See `grading.format_ok`: the response ends with a closed answer block."""
        return grading.format_ok(text)

    def anchor_text(self, problem: Problem) -> str:
        """Stem and options, without the fixed last line."""
        return tutor_prompt.without_instruction_line(problem.question)

    def judge_feedback(self, raw: str | None, problem: Problem) -> Judgement:
        """See `anchoring.review_feedback`; then without what points at the right option."""
        review = anchoring.review_feedback(raw, self.anchor_text(problem))
        return _judged(review, review.verdict, review.delivered, problem)


class NaiveMcqFormat(McqFormat):
    """`McqFormat` without anchoring: only the tutor's prompt and the verdict differ.

    Nothing asks for a concept, so a feedback of which anything is left after sanitizing is delivered, with the verdict
    `unanchored`.
    """

    template_hash = hashlib.sha256(
        f"{reprompt.TEMPLATE_HASH}{tutor_prompt.NAIVE_FEEDBACK_TEMPLATE_HASH}".encode()
    ).hexdigest()

    def feedback_messages(
        self, problem: Problem, response: str, *, peer_domain: str, agent_domain: str
    ) -> list[ChatMessage]:
        """A request for feedback without concept and rules, as one user turn."""
        prompt = tutor_prompt.naive_feedback_prompt(
            problem.question, response, peer_domain=peer_domain, agent_domain=agent_domain
        )
        return [ChatMessage(role="user", content=prompt)]

    def judge_feedback(self, raw: str | None, problem: Problem) -> Judgement:
        """Sanitized and cut; there is nothing to validate."""
        # Against no problem: no concept is looked for, and its verdict is not used.
        review = anchoring.review_feedback(raw, "")
        verdict = anchoring.FB_NONE if review.body is None else anchoring.UNANCHORED
        return _judged(review, verdict, review.body, problem)


def _judged(review: anchoring.Review, verdict: str, delivered: str | None, problem: Problem) -> Judgement:
    return judged_without(lambda text: split_letter_reveals(text, problem.answer), review, verdict, delivered)
