"""What changed between two answers: nothing is lost of either, and a word is the feedback's only where it is new."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inspector.web.differences import MOST_PARTS, MOST_WORK, change_of

TEXT = st.text(alphabet="ab 12=.\n汽车é<", max_size=40)


@given(TEXT, TEXT, TEXT)
def test_both_answers_are_in_it_character_by_character(first: str, again: str, feedback: str) -> None:
    change = change_of(first, again, feedback)
    assert change is not None
    assert "".join(piece.text for piece in change.pieces if piece.mark != "gone") == again
    assert "".join(piece.text for piece in change.pieces if piece.mark in ("", "gone")) == first


@pytest.mark.parametrize(
    ("first", "again", "feedback", "marked", "advised"),
    [
        (
            "F = 2 + 3 = 5",
            "F = 2 * 3 = 6",
            "Use 2 * 3.",
            [("gone", "+"), ("added", "*"), ("gone", "5"), ("added", "6")],
            [],
        ),
        ("use 520 liters", "use 710 liters", "Use 710.", [("gone", "520"), ("advised", "710")], ["710"]),
        ("a", "a Mass times a", "mass", [("added", " "), ("advised", "Mass"), ("added", " times a")], ["Mass"]),
        ("质量", "质力", "力", [("gone", "量"), ("advised", "力")], ["力"]),
        ("same", "same", "same", [], []),
        ("one", "two", None, [("gone", "one"), ("added", "two")], []),
    ],
)
def test_new_words_that_the_feedback_has_are_marked(
    first: str, again: str, feedback: str | None, marked: list[tuple[str, str]], advised: list[str]
) -> None:
    change = change_of(first, again, feedback)
    assert change is not None
    assert change.same == (not marked)
    assert [(piece.mark, piece.text) for piece in change.pieces if piece.mark] == marked
    assert change.advised == advised


def test_what_is_too_long_is_not_compared() -> None:
    assert change_of("a " * MOST_PARTS, "a", "a") is None


FIFTH = MOST_PARTS // 5
WORK_OF_A_FIFTH = MOST_WORK // 5**2


@pytest.mark.parametrize(("first", "again"), [("= ", "- "), ("=x", "=y")])
def test_texts_that_share_nothing_but_single_signs_are_not_compared_to_the_end(first: str, again: str) -> None:
    assert change_of(first * (FIFTH // 2), again * (FIFTH // 2), None, WORK_OF_A_FIFTH) is None
    assert change_of(first * 20, again * 20, None, WORK_OF_A_FIFTH) is not None


def test_answers_of_many_parts_are_compared() -> None:
    first = ("F = m * a = 2 * 3 = 6 N. W = F * d = 6 * 4 = 24 J. " * FIFTH).split(" ")[: FIFTH // 2]
    again = [sign if at % 7 else str(at) for at, sign in enumerate(first)]
    assert change_of(" ".join(first), " ".join(again), None, WORK_OF_A_FIFTH) is not None
