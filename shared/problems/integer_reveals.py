"""Taking the integer answer out of a feedback, while formulas and given numbers stay.

Removed are: `answer is 11` with any integer, `= 11` after arithmetic (`14 - 3 = 11`) with any integer, `\\boxed{11}`,
and `= 11`, `gives 11`, `is 11` where 11 is the answer, in whatever digits, groups and markup (`１１`, `١١`, `11.0`,
`**11**`); the same in the languages of `method/languages.py`. An integer that an operator follows begins a formula
and stays: `pOH = 14 - pH`. What always holds: characters are only removed, never changed or reordered.
"""

import re
import unicodedata

from shared.method.languages import LANGUAGES, loose
from shared.method.reveals import closing_words, edge_of_word, named_answer
from shared.problems.integers import INTEGER_TEXT, readable, same_integer

_NUMBER = rf"(?P<number>{INTEGER_TEXT})(?!\.?[0-9])"
_OPERATOR = r"[-−+*/×·÷^(]|(?:plus|minus|times|divided|over|x)\b"
_UNIT = r"(?:\s?[A-Za-zΩ°%][\w/^]*(?=\s*(?:[.,;:!?)。]|$)))?"
_PLAIN = rf"{_NUMBER}(?!\s*(?:{_OPERATOR})|[A-Za-z]\s*[-−+*/]){_UNIT}"
_MARKED_NUMBER = _NUMBER.replace("number", "marked")
_MARKED = rf"(?:\*\*|__|\$|\\boxed\{{)\s?{_MARKED_NUMBER}(?:\s?[A-Za-z%°Ω]{{1,12}})?\s?[*_$}}]{{1,3}}"
_RESULT = rf"(?:{_PLAIN}|{_MARKED})"

_ANSWER = re.compile(
    r"\s?(?:\bthe\s)?\b(?:(?:correct|right|final)\s)?(?:answer|result)\s?"
    rf"(?:is|was|=|:|should be|must be|would be|will be|equals)\s?{_RESULT}[.!]?",
    re.IGNORECASE,
)
_EQUALS = re.compile(rf"\s?=\s?{_RESULT}")
_SAYS = re.compile(rf"\s?\b(?:equals|is equal to|gives|makes|yields|gets?|is|are|be)\s{_RESULT}", re.IGNORECASE)
_BOXED = re.compile(rf"\s?\$?\\boxed\{{\s?{_NUMBER}[^{{}}]{{0,20}}\}}\$?")
_OTHER = [each for each in LANGUAGES if each.answer]
_ANSWERS = (
    _ANSWER,
    _BOXED,
    *(re.compile(rf"\s?{named_answer(each)}{_RESULT}{closing_words(each)}[.!。।]?") for each in _OTHER),
)
_SAYINGS = (
    _SAYS,
    *(
        re.compile(rf"\s?{edge_of_word(each)}(?i:{loose(each.equals)})\s{{0,2}}{_RESULT}{closing_words(each)}")
        for each in _OTHER
    ),
)


def split_integer_reveals(text: str, answer: str) -> tuple[str, tuple[str, ...]]:
    """(the feedback without claimed results, what was taken out).

    text: at most some thousand characters; taking one out may bring another together, so it repeats until
    nothing is found.
    """
    removed: list[str] = []
    while spans := _reveals(_with_plain_digits(text), answer):
        text, pieces = _cut(text, spans)
        removed += pieces
    return text, tuple(removed)


def _with_plain_digits(text: str) -> str:
    """The text for matching, of its length: Arabic and Hindi write numbers in digits of their own as well."""
    seen = readable(text)
    if seen.isascii():
        return seen
    return "".join(str(unicodedata.decimal(character, character)) for character in seen)


def _reveals(text: str, answer: str) -> list[tuple[int, int]]:
    spans = [found.span() for pattern in _ANSWERS for found in pattern.finditer(text)]
    spans += [found.span() for pattern in _SAYINGS for found in pattern.finditer(text) if _is(found, answer)]
    spans += [
        found.span() for found in _EQUALS.finditer(text) if _is(found, answer) or _after_arithmetic(text, found.start())
    ]
    return sorted(spans)


def _after_arithmetic(text: str, position: int) -> bool:
    return position > 0 and (text[position - 1].isdigit() or text[position - 1] == ")")


def _is(found: re.Match[str], answer: str) -> bool:
    return same_integer(found["number"] or found["marked"], answer)


def _cut(text: str, spans: list[tuple[int, int]]) -> tuple[str, list[str]]:
    """What is left and what was cut; spans are sorted and may overlap."""
    kept, removed, end = [], [], 0
    for start, stop in spans:
        kept.append(text[end : max(start, end)])
        removed.append(text[max(start, end) : max(stop, end)])
        end = max(end, stop)
    return "".join([*kept, text[end:]]), [piece for piece in removed if piece]
