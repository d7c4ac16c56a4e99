"""Anchor and sanitizer on whole problem sets and on hostile text: harmless text stays, time is linear.

The rows of SciKnowEval are checked where OPCOD_SCIKNOWEVAL_DIR names their directory (`<domain>/train.json`, …).
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from shared.method.anchoring import review_feedback, verdict
from shared.method.concept_words import anchoring_words, words
from shared.method.sanitizing import neutralise_control_tokens, sanitize, sanitize_with_spans, strip_thinking
from shared.method.tutor_prompt import feedback_prompt, without_instruction_line
from shared.problems.generated import generate
from tests.fakes.timed import LINEAR
from tests.unit.method.reviewed import process

SCIKNOWEVAL = os.environ.get("OPCOD_SCIKNOWEVAL_DIR")
REVEALS = ["The correct option is (C).", "The answer is B.", "Final answer: D", r"\boxed{A}", "<answer>B</answer>"]

PIECES = [
    "the correct ",
    "answer is ",
    "The answer is A or ",
    "A or ",
    "B, ",
    "(a",
    "[c] ",
    "not ",
    "option ",
    "so ",
    "because",
    "<answer>",
    "</answer>",
    "<b>",
    "\\boxed{",
    "\\text{",
    "}",
    "$",
    "**A",
    "**",
    "__",
    "`",
    "<think>",
    "</think>",
    "<reasoning>",
    "</reasoning>",
    "```",
    "thinking\n",
    "<concept>",
    "</concept>",
    "<|",
    "|>",
    "<|a|>",
    "\u200b",
    "Ｂ",
    " ",
    "\n",
    ".",
    ":",
    "x",
]


def generated() -> Iterator[str]:
    for problem in generate(0).all_problems():
        yield from (problem.question, problem.solution or "")


@cache
def sciknoweval() -> tuple[dict[str, str], ...]:
    assert SCIKNOWEVAL is not None
    files = sorted(Path(SCIKNOWEVAL).glob("*/t*.json"))
    assert files, f"no <domain>/train.json or test.json in {SCIKNOWEVAL}"
    return tuple(json.loads(line) for file in files for line in file.read_text("utf-8").splitlines())


needs_rows = pytest.mark.skipif(SCIKNOWEVAL is None, reason="set OPCOD_SCIKNOWEVAL_DIR to SciKnowEval's directory")

# --- text without a reveal ---------------------------------------------------------------------------------------


def check_harmless(text: str) -> None:
    """Nothing is taken out of it; a reveal put behind it is taken out alone; it is a fixed point of all rules."""
    assert sanitize_with_spans(text) == (text, [])
    assert strip_thinking(text) == neutralise_control_tokens(text) == text


def test_generated_problems_and_solutions_are_untouched() -> None:
    texts = [text for text in generated() if text]
    assert len(texts) > 1000
    for text in texts:
        check_harmless(text)


@needs_rows
def test_all_prompts_of_sciknoweval_are_untouched() -> None:
    assert len(sciknoweval()) == 4335
    for row in sciknoweval():
        check_harmless(row["prompt"])
        check_harmless(row["description"])


@needs_rows
def test_every_word_of_sciknoweval_that_may_anchor_does() -> None:
    for row in sciknoweval():
        question = without_instruction_line(row["prompt"])
        candidates = dict.fromkeys(word for word in words(question) if anchoring_words(word))
        assert candidates, f"nothing in row {row['idx']} could anchor a feedback"
        for word in candidates:
            assert verdict(f"<concept>{word}</concept> Check it.", row["prompt"]) == f"match:{word}"


@needs_rows
def test_the_feedback_prompt_holds_every_question_of_sciknoweval_whole() -> None:
    for row in sciknoweval():
        question = without_instruction_line(row["prompt"])
        assert question != row["prompt"]
        prompt = feedback_prompt(row["prompt"], "x", peer_domain="physics", agent_domain="botany")
        assert f"\n{question}\n" in prompt


@pytest.mark.parametrize("reveal", REVEALS)
def test_a_reveal_behind_a_harmless_text_goes_alone(reveal: str) -> None:
    for text in list(generated())[:200]:
        if text:
            sentence = text if text[-1] in ".?!" else f"{text}."
            assert sanitize(f"{sentence} {reveal}") == sentence


# --- fixed points ------------------------------------------------------------------------------------------------

messy = st.lists(st.sampled_from([*PIECES, *REVEALS, "force", "mass"]), max_size=30).map("".join)
PROBLEM = "Which force moves the mass?\n\nA: none\nB: friction\nPlease reason step by step."


@given(messy)
def test_what_is_delivered_would_be_delivered_unchanged_again(body: str) -> None:
    word, text = process(f"<concept>force</concept>{body}", PROBLEM)
    if text is not None:
        assert process(f"<concept>force</concept>{text}", PROBLEM) == (word, text)


@given(messy)
def test_the_body_is_a_fixed_point_of_every_rule(raw: str) -> None:
    body = review_feedback(raw, PROBLEM).body or ""
    assert sanitize(body) == strip_thinking(body) == body
    assert "\u200b" not in body


@given(messy, st.sampled_from(REVEALS))
def test_no_stated_answer_survives_whatever_surrounds_it(around: str, reveal: str) -> None:
    # What belongs to the surrounding text may legitimately stand in front: the reveal has a line of its own. And
    # "Final answer: Dthe …" holds the words of a reveal, but states no letter.
    assume(reveal not in around)
    assert reveal not in sanitize(f"{around}\n\n{reveal}\n\n{around}")


# --- time --------------------------------------------------------------------------------------------------------


SHORT_CHARS = 24_000
"""Of the shorter text: quadratic time shows, and linear time takes milliseconds."""


def growth(work: Callable[[str], object], unit: str, factor: int = 4) -> float:
    """How much longer `factor` times the text takes: about `factor` where time is linear, its square if not.

    CPU time of this thread, the best of three, and the least growth of three, so that other load does not count. The
    long text is timed again only where it took too long.
    """

    repeats = min(1500, -(-SHORT_CHARS // len(unit)))

    def seconds(text: str, enough_s: float = 0.0) -> float:
        best = math.inf
        for _ in range(3):
            started = time.thread_time()
            work(text)
            best = min(best, time.thread_time() - started)
            if best < enough_s:
                break
        return best

    def once_grown() -> float:
        short_s = max(seconds(unit * repeats), 1e-4)
        return seconds(unit * repeats * factor, enough_s=LINEAR * short_s) / short_s

    first = once_grown()
    return first if first < LINEAR else min(first, once_grown(), once_grown())


HOSTILE = ["[THINK]", "</thought>", "<think a=", "◁think▷", "<|channel|>analysis", "assistantfinal", "＜", "analysisA"]
HOSTILE += [
    "<reason",
    "\n<analysis>",
    "&lt;think",
    "<|think_",
    "```thinking\n",
    "\n```",
    "Here is my response:",
    "       <cot>",
]
HOSTILE += [
    "\\boxed{",
    "\\boxed{B}",
    "\\boxed{{",
    "正确答案",
    "答案是",
    "la respuesta correcta ",
    "правильный ",
    "B ist ",
    "정답은 ",
    "सही उत्तर ",
]
HOSTILE += [
    "ans. ",
    "only option ",
    "only A ",
    "####",
    "#### A",
    "A\n",
    "A ✓",
    "A (",
    "so ",
    "it's ",
    "leaves only ",
    "С ",
    "🅒",
]
HOSTILE += ["la correcta es ", "c'est donc ", "solo la B ", "es la ", "因此是", "だけ", "따라서 ", "только В "]
HOSTILE += [
    "(a) the ",
    "the first ",
    "B " + "the " * 60,
    "die dritte option ",
    "$$",
    "Bが",
    "it must be ",
    "the third option ",
    "correctly selects ",
    "chose A instead of ",
    "change your answer from A to ",
    "your answer, ",
    "C, which is ",
]
HOSTILE += [
    "\\(",
    "\\[    ",
    "(\\(",
    "A\\)",
    "A    \\]",
    "<u>",
    "\\boldsymbol {",
    "the answer, therefore, ",
    "the answer should then ",
    "this is, in fact, ",
    "that is ",
    "makes A the ",
    "(which is ",
]


@pytest.mark.parametrize(
    "unit", [*PIECES, "answer is A or ", "**A **", "<think></think>", "the best the right ", "(((", *HOSTILE]
)
def test_time_is_linear_in_hostile_text(unit: str) -> None:
    assert growth(sanitize, unit) < LINEAR


@pytest.mark.parametrize(
    "unit",
    [
        "<concept>",
        "</concept>",
        "<concept>force",
        "force ",
        "\\mathrm{",
        "a-",
        "'",
        "力a",
        "答案的",
        "자기의 ",
        "कि",
        "น้ำ",
    ],
)
def test_the_anchor_is_linear_in_feedback_and_in_problem(unit: str) -> None:
    assert growth(lambda text: verdict(text, PROBLEM), unit) < LINEAR
    assert growth(lambda text: verdict(f"<concept>{text}</concept> x", PROBLEM), unit) < LINEAR
    assert growth(lambda text: verdict("<concept>zebra</concept> x", text), unit) < LINEAR
