"""The strict score with its published oddities, and the two diagnostics beside it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.method.grading import extract_answer, format_ok, grade, lenient_grade


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<reasoning>x</reasoning>\n<answer>\nB\n</answer>", "B"),
        ("<answer>A</answer> no: <answer>B</answer>", "B"),
        ("<answer>B", "B"),
        ("<answer>B</answer> and </answer>", "B"),
        ("B", "B"),
        ("B</answer>", "B"),
        ("<answer>B</answer> as in <answer>", ""),
        ("<ANSWER>B</ANSWER>", "<ANSWER>B</ANSWER>"),
        ("<answer>\u00a0B\u00a0</answer>", "B"),
        ("<answer>\u200bB</answer>", "\u200bB"),
        ("", ""),
    ],
)
def test_extract_answer(text: str, answer: str) -> None:
    assert extract_answer(text) == answer


@pytest.mark.parametrize("said", ["b", "(B)", "B.", "**B**", "B: 2.0", "option B", "\u200bB", "A"])
def test_a_strict_grade_forgives_nothing(said: str) -> None:
    assert grade(f"<answer>{said}</answer>", "B") == 0.0


@pytest.mark.parametrize("text", ["<answer>\n B \n</answer>", "<answer>B", "B", " B</answer>"])
def test_a_strict_grade_needs_no_format(text: str) -> None:
    assert grade(text, "B") == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "<answer>b</answer>",
        "<answer>(B)</answer>",
        "<answer>**B.**</answer>",
        "<answer>B: 2.0</answer>",
        "<answer>Option B</answer>",
        "<ANSWER>B</ANSWER>",
        "<answer>B</answer> as in <answer>",
        "<answer>B</answer> <answer></answer>",
        "<answer>Ｂ</answer>",
    ],
)
def test_a_lenient_grade_forgives_form(text: str) -> None:
    assert grade(text, "B") == 0.0
    assert lenient_grade(text, "B") == 1.0


@pytest.mark.parametrize("text", ["<answer>A</answer>", "<answer>Both</answer>", "<answer>B-field</answer>", "", "?"])
def test_a_lenient_grade_forgives_no_other_answer(text: str) -> None:
    assert lenient_grade(text, "B") == 0.0


@pytest.mark.parametrize(
    ("text", "ok"),
    [
        ("x <answer>B</answer>\n ", True),
        ("<answer>B</answer> done", False),
        ("B</answer>", False),
        ("<answer>B", False),
        ("", False),
    ],
)
def test_format_ok(text: str, ok: bool) -> None:
    assert format_ok(text) is ok


@given(st.text(max_size=60), st.sampled_from("ABCD"))
def test_what_the_strict_grade_accepts_the_lenient_one_does_too(noise: str, letter: str) -> None:
    text = f"{noise.replace('<', '')}<answer>{letter}</answer>"
    assert grade(text, letter) == 1.0
    assert lenient_grade(text, letter) == 1.0


def test_the_lenient_grade_accepts_what_the_strict_one_reads_otherwise() -> None:
    """The tags in capitals would be the later ones for a tolerant reader."""
    text = "<answer>B</answer> not <ANSWER>C</ANSWER>"
    assert grade(text, "B") == lenient_grade(text, "B") == 1.0
