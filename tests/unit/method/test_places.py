"""Where a pattern can match at all: what is found there is all that there is to find."""

import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.method.languages import LANGUAGES
from shared.method.needles import lowered, told_by_lower_case
from shared.method.places import Leads, Led, Placed
from shared.method.redaction import Span
from shared.method.reveals import _PLACE, _patterns
from shared.method.thinking import _MARK, _marks
from tests.unit.method.test_cleaning_properties import HOSTILE, PIECES, REVEALS

SCRIPTS = ("LATIN", "DEVANAGARI", "ARABIC", "CJK", "HANGUL", "CYRILLIC")
WORDS = [
    "the ",
    "a ",
    "la ",
    "is ",
    "est la ",
    "es ",
    "first ",
    "option",
    "THE ANSWER",
    "réponse ",
    "Re\u0301PONSE ",
    "B×2",
    "B÷",
    "B",
    "A.",
    "(c)",
    "[ d ]",
    "**",
    "->",
    "'s ",
    "only ",
    "Nur ",
    "B works.",
    "correct",
    "选",
    "不",
    "第三个选项",
    "答えは",
    "B。",
    "정답은",
    "ا ",
    "هي ",
    "الخيار الأول",
    "पहला विकल्प",
    "Ответ",
    "это ",
    "В.",
    "первый вариант",
    "ſ",
]


def letters(text: str) -> list[Span]:
    return [found.span() for found in _PLACE.finditer(text)]


# Without a place, and longer than any pattern reaches.
FILLER = "of the water in it " * 40


@given(st.lists(st.sampled_from([*PIECES, *REVEALS, *HOSTILE, *WORDS, FILLER, FILLER]), max_size=25).map("".join))
def test_around_places_each_language_finds_what_it_finds_in_the_whole_text(text: str) -> None:
    for script in SCRIPTS:
        patterns = _patterns(script)
        whole = [span for pattern in (*patterns.near, *patterns.led) for span in pattern.spans(text, None)]
        assert sorted(patterns.spans(text, letters(text))) == sorted(whole)


@pytest.mark.parametrize(
    ("source", "reach"),
    [("[A-J]", 0), (r"ab\s{1,3}[A-J] is", 5), ("(?:a|bcd)?(?:x[A-J]|yy[A-J]b|zzz)", 5), ("(?:the )?first|[A-J]", 0)],
)
def test_how_far_ahead_of_its_place_a_match_begins(source: str, reach: int) -> None:
    assert Placed(source).reach == reach


def test_a_pattern_without_a_letter_has_no_place() -> None:
    with pytest.raises(ValueError, match="a letter A-J"):
        _ = Placed("abc").reach


@pytest.mark.parametrize(
    ("lead", "beginnings"),
    [
        ("(?i:The )", {"the "}),
        (r"(?<!\w)(?:so\s{1,3})?(?:it|that)\b", {"so ", "it", "that"}),
        ("[*_]{0,3}pick", {"*", "_", "pick"}),
        (r"(?=only|just)\w+", {"only", "just"}),
        (r"(?:a|abc)d?", {"a"}),
        (r"\w+", {""}),
        ("(?:x)?", {""}),
        (r"\s?the\tx", {" the", "the "}),
        ("верно", {""}),
    ],
)
def test_what_a_match_begins_with(lead: str, beginnings: set[str]) -> None:
    assert Led(lead, "[A-J]").beginnings == beginnings


def test_one_pass_tells_where_each_pattern_may_begin() -> None:
    choose, article = Led("(?i:choose )", "[A-J]"), Led(r"(?i:(?:the\s)?best )", "[A-J]")
    text = "Choose B, the best C" + " x" * 50 + " choose well"
    found = Leads((choose, article), r"(?<!\w)").starts(text.lower(), [(7, 8), (19, 20)])
    assert found == {choose: [0], article: [10, 14]}


def test_letters_that_lower_case_tells_are_told_by_it() -> None:
    every = "".join(chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code <= 0xDFFF)
    told = {each for row in LANGUAGES for each in row.answer + row.being + row.correct + row.only if each.isalpha()}
    told |= {each.upper() for each in told if len(each.upper()) == 1}
    cased = sorted(each for each in told if each.upper() != each.lower() and told_by_lower_case(ord(each)))
    assert len(cased) > 50
    for each in cased:
        alike = {other for other in re.findall(f"(?i:{each})", every) if lowered(other) is not None}
        assert {other.lower() for other in alike} == {each.lower()}


MARKS = [
    "analysis",
    "assistantfinal",
    "aſſistantfinal",
    "HERE IS MY RESPONSE:",
    "Here's my thought process:",
    "[BEGIN FINAL RESPONSE]",
    "<|channel|> final<|message|>",
    "[unused16]",
    "&lt;think&gt;",
    "◁think▷",
    "[/think]",
    "\n  ```cot\n",
    "<a b='c'>",
    "\n",
    "A",
    "h",
]


@given(st.lists(st.sampled_from(MARKS + PIECES), max_size=12).map("".join))
def test_marks_of_thinking_are_found_where_they_may_begin_alone(text: str) -> None:
    assert [found.span() for found in _marks(text)] == [found.span() for found in _MARK.finditer(text)]
