"""The `integer` format: one-line prompts for a small model, graded on the integer after the last `=`.

Made for the `compact` chat template, which renders `Q: {user}` and then the role that speaks, `A:` or whatever
the system message names. So the prompts are
`Q: {question}` `A:`, for the self-teacher `Q: {question}` `Solved:{s}` `Feedback:{f}` `A:`,
for the tutor `Q: {question}` `Peer:{response}` `Tutor:`, a line each.
What always holds: text that a model wrote stays on its own line, so that it cannot pass for another role.
"""

import hashlib
import re

from shared.contracts.messages import ChatMessage
from shared.errors import shown
from shared.method.anchoring import review_feedback
from shared.method.sanitizing import neutralise_control_tokens
from shared.problems.integer_reveals import split_integer_reveals
from shared.problems.integers import (
    CURRENCY,
    DIGITS,
    INTEGER_ENDS,
    INTEGER_TEXT,
    canonical,
    number_shadow,
    same_integer,
)
from shared.problems.problem import Judgement, Problem, judged_without

TEMPLATES = "{question}\nSolved:{s}\nFeedback:{f} | Tutor: {question}\nPeer:{response}"
"""The prompts below in short: what `template_hash` stands for."""

_OPENING = re.compile(
    rf"(?:\s|\*{{1,3}}|_{{1,2}}|{CURRENCY}|\\[(\[]|\\(?:boxed|text(?:bf|it|rm|sf)?|math[a-z]{{2}})\s?\{{)*"
)
_INTEGER = re.compile(rf"({INTEGER_TEXT.replace('?', '? ?', 1)}){INTEGER_ENDS}")
# Stars are markup where they touch the number and nothing else: `2**3` and `2 ** 3` are unfinished.
_CLOSING = re.compile(r"\*{2,3}(?![\w(\\])|\s?(?:_{1,2}|\$|\\[)\]]|\}|\^\s?\{?\s?\\circ(?![A-Za-z])\s?\}?)")
_UNIT_IN_BRACKETS = re.compile(r"\s*\(\s?[^\W\d_](?:[\w°%/·.,:; ]|\^-?|[-−]\^){0,40}\)")
_OPERATORS = "+*/×·÷^±∓⋅∗∙⁄∕"
_UNFINISHED = re.compile(
    rf"\s*(?:[-−=(√π{_OPERATORS}]|[–—]\s?[0-9]|x\s?[0-9]|[0-9]{{1,3}}/[0-9]|\\(?:frac|pi|sqrt)\b)"
    r"|(?:\s|\\[,;:!])*\\(?:times|cdot|div|pm|mp)\b"
)
_GOES_ON = re.compile(
    r"[^\S\n]*(?:[,;:]?[^\S\n]*(?:or|and|to|till|until|through|oder|und|bis|ou|et|o|y)[^\S\n]+[-−]?[0-9]"
    r"(?![0-9]*[^\S\n]*(?:decimal|significant|places|digits|figures|s\.?f|d\.?p))"
    r"|[,;][^\S\n]*[-−]?[0-9]+(?=[^\S\n]*(?:[.,;!?)](?![0-9])|$))|:[0-9]|\.[0-9]"
    rf"|!(?:\(|[^\S\n]*[−{_OPERATORS}-][^\S\n]*[0-9])"
    r"|(?:times|plus|minus|mod|modulo|choose|over|multiplied by|divided by)[^\S\n]+[-−]?[0-9(]"
    r"|(?:%|per[ -]?cent)[^\S\n]+of[^\S\n]+[-−]?[0-9]|(?:hundred|thousand|tausend|million|milliard|millone"
    r"|billion|trillion|lakh|crore)[a-z]{0,3}\b|[万萬亿億])",
    re.IGNORECASE | re.MULTILINE,
)
"""On its line: another number beside it, which may be the right one, more of an expression, or its magnitude."""
_TAG = re.compile(r"</?\w[^<>]{0,100}>\s?\Z")
_COMPARISONS = tuple("<>!≤≥≠~≈")
_NUMBER = re.compile(rf"(?<![\w.,^'’])[-−]?{DIGITS}(?:\.0+)?(?![\w^]|[.,'’][0-9])")
_BOLD_OPENS = re.compile(r"(?:(?<=\s)|\A)\*{2,3}\Z")
_MAX_HINTED = 20
_CANONICAL = re.compile(r"-?[1-9][0-9]*|0")


class IntegerFormat:
    """Short questions with an integer answer, in compact prompts."""

    name = "integer"
    template_hash = hashlib.sha256(TEMPLATES.encode()).hexdigest()

    def refusal(self, problem: Problem) -> str | None:
        """See `ProblemFormat.refusal`: the answer must be a plain integer, and there is no system message."""
        if not _CANONICAL.fullmatch(problem.answer):
            return (
                f"the format integer expects an integer as answer, such as '12' or '-3', got {shown(problem.answer)}; "
                f"{self._instead(problem.answer)}"
            )
        if problem.system is not None:
            return "the format integer has no system message, remove the field 'system'"
        return None

    def _instead(self, answer: str) -> str:
        """Whoever has the answers of another data set has them as it writes them: `$12$`, `1,200`, `… #### 12`."""
        meant = self.extract_answer(f"= {answer.rpartition('####')[2]}")
        if meant and len(meant) <= _MAX_HINTED:
            return f"write it as '{meant}'"
        return "questions with other answers can be asked as multiple choice (problems.format = 'mcq'), or left out"

    def messages(self, problem: Problem) -> list[ChatMessage]:
        """The question alone."""
        return [ChatMessage(role="user", content=problem.question)]

    def teacher_messages(self, problem: Problem, *, solution: str | None, feedback: str | None) -> list[ChatMessage]:
        """The question with a `Solved:` and a `Feedback:` line, each only if its text is not blank."""
        lines = [problem.question]
        lines += _labelled("Solved", solution)
        lines += _labelled("Feedback", feedback)
        return [ChatMessage(role="user", content="\n".join(lines))]

    def feedback_messages(
        self,
        problem: Problem,
        response: str,
        *,
        peer_domain: str,  # noqa: ARG002  a small tutor was taught one prompt, which names no domain
        agent_domain: str,  # noqa: ARG002
    ) -> list[ChatMessage]:
        """The question and the peer's response; the system message makes the tutor speak."""
        content = f"{problem.question}\nPeer:{_one_line(response)}"
        return [ChatMessage(role="system", content="Tutor"), ChatMessage(role="user", content=content)]

    def extract_answer(self, text: str) -> str:
        """The integer that follows the last `=`, as `12` or `-3`; "" if there is none.

        Full-width digits, groups (`1,200`, `1'200`, `1 200`, `1_200`), zeros behind the point (`12.0`), an exponent
        (`12e3`) and markup around it (`**12**`, `\\boxed{12}`) are forgiven; a currency's sign may stand before it,
        and degrees (`12^\\circ`), a unit, also in brackets, a full stop or more words may follow. It is no answer if
        another decimal part or digit group follows, or an operator (`= 3 * 4` is unfinished, not 3; `= 12 ± 1` and
        `= 12 to 15` are ranges, `= 12²` and `= 12 million` not 12), if another number is offered beside it (`= 12 or
        13`), or behind an inequality (`<= 12`).
        """
        before, sign, tail = number_shadow(text).strip().rpartition("=")
        if _TAG.sub("", before[-120:]).rstrip().endswith(_COMPARISONS):
            return ""
        found = _INTEGER.match(tail, _end(_OPENING, tail, 0)) if sign else None
        if found is None:
            return ""
        behind = _end(_CLOSING, tail, found.end())
        behind = _end(_UNIT_IN_BRACKETS, tail, behind)
        more = _UNFINISHED.match(tail, behind) or _GOES_ON.match(tail, behind)
        return "" if more else canonical(found[1])

    def grade(self, text: str, answer: str) -> float:
        """1.0 if the integer after the last `=` is `answer`, else 0.0."""
        return 1.0 if answer and self.extract_answer(text) == answer else 0.0

    def grade_lenient(self, text: str, answer: str) -> float:
        """1.0 if the last number of the response, `=` before it or not, is `answer`, or `grade` gives 1.0.

        `12.0` and `1,200` are read as integers; an exponent or a digit inside a word is no number, and the operand
        of an unfinished expression (`= 3 * 4`) is no answer.
        """
        if self.grade(text, answer) == 1.0:
            return 1.0
        text = number_shadow(text)
        numbers = list(_NUMBER.finditer(text))
        if not answer or not numbers or _ends_in_operator(text[: numbers[-1].start()]):
            return 0.0
        return 1.0 if same_integer(numbers[-1].group(), answer) else 0.0

    def format_ok(self, text: str) -> bool:
        """Whether an integer follows the last `=`."""
        return self.extract_answer(text) != ""

    def anchor_text(self, problem: Problem) -> str:
        """The question."""
        return problem.question

    def judge_feedback(self, raw: str | None, problem: Problem) -> Judgement:
        """Verdict and clean text as everywhere, then without claimed results (`= 12.`, `answer is 12`)."""
        review = review_feedback(raw, self.anchor_text(problem))
        return judged_without(
            lambda text: split_integer_reveals(text, problem.answer, problem.question),
            review,
            review.verdict,
            review.delivered,
        )

    def process_feedback(self, raw: str | None, problem: Problem) -> tuple[str, str | None]:
        """See `ProblemFormat.process_feedback`."""
        judged = self.judge_feedback(raw, problem)
        return judged.verdict, judged.delivered


def _ends_in_operator(text: str) -> bool:
    """Whether a number that follows is an operand; a minus without a left one is a sign, `**` that opens is bold."""
    before = _BOLD_OPENS.sub("", text).rstrip()
    if before.endswith(("-", "−")):
        return before[:-1].rstrip()[-1:].isdigit() or before[:-1].rstrip().endswith(")")
    return before.endswith(tuple(_OPERATORS))


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    """The end of what the pattern takes there, if anything."""
    found = pattern.match(text, at)
    return found.end() if found else at


def _labelled(label: str, text: str | None) -> list[str]:
    line = _one_line(text or "")
    return [f"{label}:{line}"] if line else []


def _one_line(text: str) -> str:
    """The text on one line with exactly one leading space and no chat control tokens; "" if it is blank."""
    words = neutralise_control_tokens(text).split()
    return " " + " ".join(words) if words else ""
