"""Words without which a pattern cannot match: a text that lacks those of a pattern need not be searched with it.

What always holds: a text that `lowered` gives, and in which a pattern matches, has a needle of each of its sets.
Looking for a few words is some fifty times as fast as trying a pattern at every place.
"""

import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from importlib import import_module
from typing import Any

from shared.method.redaction import Span

# Not public modules, and so of no known types, but the only ones that read a pattern as `re` itself does.
_constants: Any = import_module("re._constants")
_parser: Any = import_module("re._parser")
_casefix: Any = import_module("re._casefix")

SHORTEST = 2
"""Bytes: a single ASCII character is in every text, one of another script is not."""

Needles = frozenset[str]

_ALSO_ASCII = "ſ\u212aıİ"
"""All that counts as an ASCII letter where case does not matter: long s, the Kelvin sign, and two kinds of i."""


def lowered(text: str) -> str | None:
    """To look for needles in; None where that would not do."""
    return None if any(letter in text for letter in _ALSO_ASCII) else text.lower()


class Needled:
    """A pattern with its sets of needles; one that has none is always searched with."""

    def __init__(self, source: str) -> None:
        self.pattern = re.compile(source)

    @cached_property
    def needles(self) -> tuple[Needles, ...]:
        """In lower case; any match holds one of each set, in whatever case."""
        found = {each for each in _sets(_parser.parse(self.pattern.pattern)) if _shortest(each) >= SHORTEST}
        return tuple(sorted(found, key=_shortest, reverse=True))

    def may_match(self, seen: str | None) -> bool:
        """False only where the text lacks what any match holds. seen: `lowered` of the text."""
        return seen is None or all(any(needle in seen for needle in each) for each in self.needles)

    def spans(self, text: str, seen: str | None) -> Iterator[Span]:
        """Of all matches. seen: `lowered` of the text."""
        if self.may_match(seen):
            yield from (found.span() for found in self.pattern.finditer(text))

    def stretches(self, seen: str) -> list[Span]:
        """One for each of its rarest needles, in no order, which together hold where all matches begin."""
        found = [[at for needle in each for at in occurrences(needle, seen)] for each in self.needles]
        return [(max(0, at - self._width), at) for at in min(found, key=len)] if found else [(0, len(seen))]

    @cached_property
    def _width(self) -> int:
        return int(_parser.parse(self.pattern.pattern).getwidth()[1])


def occurrences(needle: str, text: str) -> Iterator[int]:
    """Every place at which it begins, those that overlap too."""
    at = text.find(needle)
    while at >= 0:
        yield at
        at = text.find(needle, at + 1)


def _sets(tree: Iterable[tuple[Any, Any]]) -> Iterator[Needles]:
    """Sets of needles, of each of which a match of the whole sequence holds one."""
    run = ""
    for kind, told in tree:
        if kind is _constants.LITERAL and told_by_lower_case(told):
            run += chr(told).lower()
            continue
        yield frozenset({run})
        run = ""
        match kind:
            case _constants.SUBPATTERN:
                yield from _sets(told[3])
            case _constants.ATOMIC_GROUP:
                yield from _sets(told)
            case _constants.MAX_REPEAT | _constants.MIN_REPEAT | _constants.POSSESSIVE_REPEAT if told[0] > 0:
                yield from _sets(list(told[2]) * told[0])
            case _constants.BRANCH:
                yield frozenset().union(*(_best(_sets(each)) for each in told[1]))
    yield frozenset({run})


def _best(sets: Iterable[Needles]) -> Needles:
    """The one whose shortest needle is the longest, as it is in the fewest texts."""
    return max(sets, key=lambda each: (_shortest(each), -len(each)))


def _shortest(needles: Needles) -> int:
    return min(len(needle.encode()) for needle in needles)


def told_by_lower_case(code: int) -> bool:
    """Whether all that equals the character without regard to case is in lower case the same, as `lowered` has it."""
    lower = chr(code).lower()
    return code < 128 or (len(lower) == 1 and ord(lower) not in _casefix._EXTRA_CASES)
