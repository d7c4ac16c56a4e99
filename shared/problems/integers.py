"""How an integer is written in a text, and what it is: `12`, `-3`, `− 3`, `1,200`, `12.0`, `12e3`.

Groups of three digits stand between commas; a decimal part is zeros; an exponent has at most two digits.
What always holds: time is linear in the digits, however many there are.
"""

import re

from shared.method.sanitizing import shadow

_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)"
INTEGER_TEXT = rf"[-−–]?{_DIGITS}(?:\.0+)?(?:[eE]\+?[0-9]{{1,2}})?"
"""An integer as people and models write it, behind `readable`."""

_PARTS = re.compile(rf"\s*([-−–]?)\s?({_DIGITS})(?:\.0+)?(?:[eE]\+?([0-9]{{1,2}}))?\s*")
_NO_DIGIT = re.compile(r"[^0-9]")
_POWERS = str.maketrans(dict.fromkeys("⁰¹²³⁴⁵⁶⁷⁸⁹", "^"))


def readable(text: str) -> str:
    """The shadow of a text, of its length, with raised digits as `^`: `12²` is a power of 12, and is not 122."""
    return shadow(text.translate(_POWERS))


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
