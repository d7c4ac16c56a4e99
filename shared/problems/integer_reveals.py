"""Taking the integer answer out of a feedback, while formulas and given numbers stay.

Removed are: `answer is 11` with any integer, `= 11` after arithmetic (`14 - 3 = 11`) with any integer, and
`= 11`, `gives 11`, `is 11` where 11 is the answer. An integer that an operator follows begins a formula and
stays: `pOH = 14 - pH`. What always holds: characters are only removed, never changed or reordered.
"""

import re

from shared.method.sanitizing import shadow

_INTEGER = r"(?P<number>[-−]?[0-9]+)(?!\.?[0-9])"
_OPERATOR = r"[-−+*/×·÷^(]|(?:plus|minus|times|divided|over|x)\b"
_UNIT = r"(?:\s?[A-Za-zΩ°%][\w/^]*(?=\s*(?:[.,;:!?)]|$)))?"
_RESULT = rf"{_INTEGER}(?!\s*(?:{_OPERATOR})|[A-Za-z]\s*[-−+*/]){_UNIT}"

_ANSWER = re.compile(
    r"\s?(?:\bthe\s)?\b(?:(?:correct|right|final)\s)?(?:answer|result)\s?"
    rf"(?:is|was|=|:|should be|must be|would be|will be|equals)\s?{_RESULT}[.!]?",
    re.IGNORECASE,
)
_EQUALS = re.compile(rf"\s?=\s?{_RESULT}")
_SAYS = re.compile(rf"\s?\b(?:equals|is equal to|gives|makes|yields|gets?|is|are|be)\s{_RESULT}", re.IGNORECASE)


def remove_integer_reveals(text: str, answer: str) -> str:
    """The feedback without claimed results; see the module for what counts as one."""
    return split_integer_reveals(text, answer)[0]


def split_integer_reveals(text: str, answer: str) -> tuple[str, tuple[str, ...]]:
    """(the feedback without claimed results, what was taken out).

    text: at most some thousand characters; taking one out may bring another together, so it repeats until
    nothing is found.
    """
    removed: list[str] = []
    while spans := _reveals(shadow(text), answer):
        text, pieces = _cut(text, spans)
        removed += pieces
    return text, tuple(removed)


def _reveals(text: str, answer: str) -> list[tuple[int, int]]:
    spans = [found.span() for found in _ANSWER.finditer(text)]
    spans += [found.span() for found in _SAYS.finditer(text) if _same(found["number"], answer)]
    spans += [
        found.span()
        for found in _EQUALS.finditer(text)
        if _same(found["number"], answer) or _after_arithmetic(text, found.start())
    ]
    return sorted(spans)


def _after_arithmetic(text: str, position: int) -> bool:
    return position > 0 and (text[position - 1].isdigit() or text[position - 1] == ")")


def _same(number: str, answer: str) -> bool:
    number = number.replace("−", "-")
    sign = "-" if number.startswith("-") else ""
    return sign + (number.lstrip("-").lstrip("0") or "0") == answer


def _cut(text: str, spans: list[tuple[int, int]]) -> tuple[str, list[str]]:
    """What is left and what was cut; spans are sorted and may overlap."""
    kept, removed, end = [], [], 0
    for start, stop in spans:
        kept.append(text[end : max(start, end)])
        removed.append(text[max(start, end) : max(stop, end)])
        end = max(end, stop)
    return "".join([*kept, text[end:]]), [piece for piece in removed if piece]
