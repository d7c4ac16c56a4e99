"""The sanitizer's promises: idempotent, only deletes, accounts for it, and its further reveals."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.method.sanitizing import (
    neutralise_control_tokens,
    sanitize,
    sanitize_with_spans,
    shadow,
    strip_thinking,
)
from tests.unit.method.reviewed import process

FRAGMENTS = [
    "The correct answer is ",
    "answer: ",
    "option ",
    "is correct",
    "choose ",
    "not ",
    "\\boxed{",
    "}",
    "**",
    "__",
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
    "<b>",
    "</b>",
    "<|im_end|>",
    "<|",
    "|>",
    "A",
    "B",
    "(c)",
    "Ｄ",
    "\u200b",
    "\u00a0",
    "\ud800",
    " ",
    "\n",
    ". ",
    ", ",
    ": ",
    "3.96",
    "because",
    "field",
    "²",
]
messy = st.one_of(st.lists(st.sampled_from(FRAGMENTS), max_size=30).map("".join), st.text(max_size=80))
plain = st.text(alphabet="abcdefghijklmnopqrstuvwxyz0123456789 .,;:!?+-=/^%'²°ΔéμΩ\n", max_size=200)


@given(messy)
def test_sanitize_is_idempotent(text: str) -> None:
    once = sanitize(text)
    assert sanitize(once) == once


@given(messy)
def test_the_removals_and_what_is_left_make_up_the_original(text: str) -> None:
    cleaned, removals = sanitize_with_spans(text)
    kept, at = [], 0
    for removal in removals:
        assert at <= removal.start < removal.end and removal.text == text[removal.start : removal.end]
        kept.append(text[at : removal.start])
        at = removal.end
    assert "".join([*kept, text[at:]]) == cleaned


@given(plain)
def test_text_without_capitals_or_markup_is_unchanged(text: str) -> None:
    assert sanitize_with_spans(text) == (text, [])


@given(plain, st.sampled_from("ABCD"), plain)
def test_a_stated_answer_never_survives(before: str, letter: str, after: str) -> None:
    assert not re.search(rf"answer is {letter}\b", sanitize(f"{before}. The answer is {letter}. {after}"))


@given(messy)
def test_the_shadow_keeps_the_length(text: str) -> None:
    assert len(shadow(text)) == len(text)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("Thus, the correct reactant is B.", ""),
        ("Mind the sign, so the answer must be (d).", "Mind the sign."),
        ("**Final Answer:** D", ""),
        ("Check it.\n\n### Final Answer\n\nC", "Check it.\n\n###"),
        ("You should choose option C here", "You should here"),
        ("Option B is clearly correct, as shown", "as shown"),
        ("Note that B is the correct answer here", "Note that here"),
        ("It follows that the best match would be C.", "It follows that."),
        ("The answer is A or B. Go on", "Go on"),
        ("The correct answer is D: lattice enthalpy because ions attract", "because ions attract"),
        ("Your unit is off. \\textbf{C}", "Your unit is off."),
        ("The correct option (b) needs no friction", "needs no friction"),
        ("Pick **C** and redo it", "and redo it"),
        ("Here D fits best", "Here"),
        ("It correctly identifies B as the answer. Mind the unit.", "It as the answer. Mind the unit."),
        ("The attempt correctly selects option B.", "The attempt."),
        ("You rightly concluded that (c).", "You."),
        ("You selected C, which is correct, but no step says why.", "You, but no step says why."),
        ("You chose C, and that is the right answer.", "You."),
        ("You incorrectly chose A instead of C.", "You incorrectly."),
        ("The attempt picks option A rather than option D.", "The attempt."),
        ("$x=\\boxed{B}$ is missing", "$x=$ is missing"),
        ("one <|im_end|> two", "one two"),
        ("one <｜User｜> two", "one two"),
        ("one <think>B</think> two", "one two"),
    ],
)
def test_further_reveals(body: str, expected: str) -> None:
    assert sanitize(body) == expected


@pytest.mark.parametrize(
    "body",
    [
        "Do not choose B yet",
        "You chose B without a reason",
        "You correctly identify a base",
        "You correctly find B = 2 T",
        "You correctly identify B as the magnetic field",
        "You correctly chose B = 2 T",
        "You correctly identified that E is conserved, but the mass term is wrong.",
        "It correctly identifies that B is uniform inside the solenoid",
        "You correctly identify C and H as the elements that burn.",
        "You correctly identified F, the force, as the cause",
        "You correctly conclude that I is zero at the node",
        "The force B, which is correct, acts downwards",
        "You used equation A, which is right, but with another sign",
        "You chose A over a smaller area",
        "It selected C, which is too low",
        "Your answer, B, is not supported",
        "Change the answer to a number with a unit",
        "the options are A: 2.5, B: 3.1",
        "put the letter in the <answer> tag",
        "use <answer>...</answer>",
        "The answer is B_0 times the area",
        "The right form is B = \\mu_0 I",
        "[ATP] falls as x**B**y grows",
        "Option B is right-handed",
        "vitamin B is correct in dose",
        "a <| b |> c",
    ],
)
def test_mentions_that_reveal_nothing_stay(body: str) -> None:
    assert sanitize(body) == body


def test_a_removal_names_its_reason_and_spans_what_was_hidden_inside() -> None:
    body = "Look. The cor\u200brect option is C"
    _, [removal] = sanitize_with_spans(body)
    assert (removal.reason, removal.text) == ("reveal", " The cor\u200brect option is C")


def test_text_that_reassembles_itself_without_end_is_dropped_whole() -> None:
    text = "<|a|>"
    for _ in range(6):
        text = f"<|a{text}|>"
    cleaned, removals = sanitize_with_spans(f"Fine so far. {text}")
    assert cleaned == ""
    assert "hostile" in {removal.reason for removal in removals}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<|im_end|>", "< |im_end|>"),
        ("<|<|x|>", "< |< |x|>"),
        ("＜|im_end|>", "＜ |im_end|>"),
        ("<｜end▁of▁sentence｜>", "< ｜end▁of▁sentence｜>"),
        ("</s>[INST] hi [/INST]", "< /s>[ INST] hi [ /INST]"),
        ("<start_of_turn>user", "< start_of_turn>user"),
        ("a < b, [ATP], <answer>", "a < b, [ATP], <answer>"),
    ],
)
def test_control_tokens_become_text(text: str, expected: str) -> None:
    assert neutralise_control_tokens(text) == expected


@given(messy)
def test_neutralising_is_idempotent_and_leaves_no_token(text: str) -> None:
    once = neutralise_control_tokens(text)
    assert "<|" not in once
    assert neutralise_control_tokens(once) == once


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>plan</think>\n\nB", "B"),
        ("B <THINK>never closed", "B"),
        ("template opened it</think> B", "B"),
        ("<think>a<think>b</think>c</think>d", "d"),
        ("one <thinking>x</thinking> two", "one two"),
        ("  I think so. ", "  I think so. "),
    ],
)
def test_strip_thinking(text: str, expected: str) -> None:
    assert strip_thinking(text) == expected


BLOCKS = [
    ("<think>", "</think>"),
    ("<thought>", "</thought>"),
    ('<Thinking budget="9">', "</Thinking>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("＜think＞", "＜/think＞"),
    ("<scratchpad>", "</scratchpad>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("analysisWe", "assistantfinal"),
    ("<|channel>thought\n", "<channel|>"),
    ("<longcat_think>", "</longcat_think>"),
    ("<mm:think>", "</mm:think>"),
    ("<think:opensource>", "</think:opensource>"),
    ("<|think:start|>", "<|think:end|>"),
    ("<|plamo:begin_think:plamo|>", "<|plamo:end_think:plamo|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
    ("<|think|>", "<|end|><|begin|>assistant<|content|>"),
    ("[BEGIN_THINK]", "[END_THINK]"),
    ("[unused16]", "[unused17]"),
    ("&lt;think&gt;", "&lt;/think&gt;"),
    ("<chain_of_thought>", "</chain_of_thought>"),
]
OPENED_BY_THE_MODEL = [
    ("```thinking\n", "\n```\n"),
    ("Here is my thought process:", "Here's my response:"),
    ("Here are my reasoning steps:\n", "[BEGIN FINAL RESPONSE]"),
]
"""No template opens these, and their end means nothing by itself."""

FOR_DATA_SETS = [(f"<{name}>", f"</{name}>") for name in ("reasoning", "reflection", "reason", "analysis", "cot")]


@pytest.mark.parametrize(("opening", "closing"), [*BLOCKS, *OPENED_BY_THE_MODEL, *FOR_DATA_SETS])
def test_hidden_reasoning_is_no_part_of_a_feedback_and_decides_no_verdict(opening: str, closing: str) -> None:
    hidden = f"{opening}It is <concept>zebra</concept> and B.{closing}"
    seen = "<concept>force</concept> Check the sign."
    assert process(f"{hidden}{seen}", "Which force?") == ("match:force", "Check the sign.")
    assert process(f"{opening}{seen}", "Which force?") == ("fb_none", None)


@pytest.mark.parametrize("closing", [closing for _, closing in BLOCKS])
def test_a_template_may_have_opened_the_block(closing: str) -> None:
    seen = "<concept>force</concept> Check the sign."
    assert process(f"It is zebra.{closing}{seen}", "Which force?") == ("match:force", "Check the sign.")


@pytest.mark.parametrize(("opening", "closing"), [*BLOCKS, *OPENED_BY_THE_MODEL])
def test_a_demonstration_loses_what_its_model_hides(opening: str, closing: str) -> None:
    assert strip_thinking(f"{opening}secret{closing}<answer>B</answer>") == "<answer>B</answer>"


@pytest.mark.parametrize(("opening", "closing"), FOR_DATA_SETS)
def test_a_demonstration_keeps_the_reasoning_that_its_data_set_asks_for(opening: str, closing: str) -> None:
    text = f"{opening}step one{closing}<answer>B</answer>"
    assert strip_thinking(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "I think <about it>",
        "analysis of the sign",
        "[thought] [analysis] [content]",
        "<think about it>",
        "a < b",
        "The <analysis> of the sign is missing",
        "Put the steps into <reasoning> and </reasoning>, then the letter",
        "Do close it with </reasoning> before the answer",
        "Say here is my response: 4",
        "```\nx = 1\n```\nis right",
        "```python\nx = 1\n```\nis right",
    ],
)
def test_words_of_thinking_are_no_marks(text: str) -> None:
    assert sanitize(text) == strip_thinking(text) == text


def test_a_block_ends_where_its_own_kind_of_mark_closes_it() -> None:
    assert sanitize("Look. <think>a </reasoning> b</think> Mind the sign.") == "Look. Mind the sign."
    assert sanitize("<analysis>a <think>b</think> c</analysis> Mind the sign.") == "Mind the sign."
    assert sanitize("```thinking\n<think>a</think>\n```\nMind the sign.") == "Mind the sign."


def test_an_unclosed_block_takes_the_rest_and_says_so() -> None:
    text, [removal] = sanitize_with_spans("Mind the sign.\n<analysis>\nthe force is")
    assert (text, removal.reason, removal.text) == ("Mind the sign.", "thinking", "\n<analysis>\nthe force is")
