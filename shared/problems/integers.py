"""How an integer is written in a text, and what it is: `12`, `-3`, `− 3`, `1,200`, `1'200`, `1 200`, `12.0`, `12e3`.

Groups of three digits stand between commas, apostrophes, underscores or blanks of any width, one kind in a number; a
decimal part is zeros; an exponent has at most two digits.
What always holds: time is linear in the digits, however many there are.
"""

import re

from shared.method.sanitizing import shadow

_GROUP_MARKS = (",", "['’]", "_", " ")  # a blank of any width is a plain one in the shadow
_GROUPS = "|".join(f"(?:{mark}[0-9]{{3}})+" for mark in _GROUP_MARKS)
DIGITS = rf"(?>[0-9]{{1,3}}(?:{_GROUPS})(?![0-9])|[0-9]+)"
"""Digits alone, in groups or not."""

INTEGER_TEXT = rf"[-−–]?{DIGITS}(?:\.0+)?(?:[eE]\+?[0-9]{{1,2}})?"
"""An integer as people and models write it, behind `number_shadow`."""

INTEGER_ENDS = r"(?![0-9]|[.,'’_][0-9]|[eE][-+]?[0-9])"
"""Fails where the digits go on, so that what is before is a part of another number."""

CURRENCY = r"(?:[A-Z]{0,2}\\?\$|[¢£¥฿\u20a0-\u20cf]|\b(?:USD|EUR|GBP|INR|CNY|JPY|CHF|Rs)\b\.?)"
"""What stands before an amount of money, behind `number_shadow`; the dollar also as LaTeX has it."""

_PARTS = re.compile(rf"\s*([-−–]?)\s?({DIGITS})(?:\.0+)?(?:[eE]\+?([0-9]{{1,2}}))?\s*")
_NO_DIGIT = re.compile(r"[^0-9]")
# NFKC makes `12²` the number 122 and `12½` begin with 12: a raised digit is an operator behind what it is raised from.
_NO_DIGITS_OF_IT = str.maketrans(
    dict.fromkeys("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻₀₁₂₃₄₅₆₇₈₉₊₋", "^") | dict.fromkeys("¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞", "/")
)


def number_shadow(text: str) -> str:
    """`sanitizing.shadow`, in which an exponent or a fraction behind a number is none of its digits; of one length."""
    return shadow(text if text.isascii() else text.translate(_NO_DIGITS_OF_IT))


def canonical(written: str) -> str:
    """`1200` or `-3`, as answers of problems are written. ValueError if it is no `INTEGER_TEXT`."""
    parts = _PARTS.fullmatch(written)
    if parts is None:
        raise ValueError(f"expected an integer such as '12', '-3' or '1,200', got {written[:60]!r}")
    bare = _NO_DIGIT.sub("", parts[2]).lstrip("0") + "0" * int(parts[3] or 0)
    bare = bare.lstrip("0") or "0"
    return f"-{bare}" if parts[1] and bare != "0" else bare


def same_integer(written: str, answer: str) -> bool:
    """Whether it is the canonical `answer`."""
    return canonical(written) == answer
