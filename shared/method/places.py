"""Where in a text a pattern can match at all, so that it is tried nowhere else.

A pattern that names an answer holds a place: a letter A-J, or what stands for one in a branch without letters. A
`Placed` looks for its matches around places alone, a `Led` only where one of its beginnings stands there as well. What
always holds: both find exactly what `finditer` would, in time linear in the text.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, lru_cache
from importlib import import_module
from itertools import chain
from typing import Any

from shared.method.needles import Needled, told_by_lower_case
from shared.method.redaction import Span

# Not public modules, and so of no known types, but the only ones that read a pattern as `re` itself does.
_constants: Any = import_module("re._constants")
_parser: Any = import_module("re._parser")

_LETTERS = (_constants.RANGE, (ord("A"), ord("J")))
_BLANK = [(_constants.CATEGORY, _constants.CATEGORY_SPACE)]
_ZERO_WIDTH = frozenset({_constants.AT, _constants.ASSERT, _constants.ASSERT_NOT})
_REPEATS = frozenset({_constants.MAX_REPEAT, _constants.MIN_REPEAT, _constants.POSSESSIVE_REPEAT})

_PLACE_COST = 10
"""To begin a search takes as long as to search so many characters."""

LONGEST_BEGINNING = 4
"""Characters of a beginning that are looked at: more would tell no more words apart."""


class Placed(Needled):
    """A pattern whose every match holds a place."""

    @cached_property
    def reach(self) -> int:
        """The most characters that a match has ahead of its first place."""
        ahead = _ahead(_parser.parse(self.pattern.pattern))
        if ahead is None:
            raise ValueError(f"expected a pattern that holds a letter A-J, got {self.pattern.pattern!r}")
        return ahead

    @cached_property
    def _from_here(self) -> re.Pattern[str]:
        return re.compile(rf"(?s:.{{0,{self.reach}}}?)(?P<match>{self.pattern.pattern})")

    def spans_near(self, text: str, places: Sequence[Span]) -> Iterator[Span]:
        """Of all matches. places: ordered, disjoint stretches of the text that hold all places in it."""
        # Where places are dense one search of everything takes less than one ahead of each.
        if len(places) * (self.reach + _PLACE_COST) > len(text):
            yield from (found.span() for found in self.pattern.finditer(text))
            return
        at = 0
        for start, end in places:
            at = max(at, start - self.reach)
            while at <= end:
                found = self._from_here.match(text, at)
                if found is None:
                    at += self.reach + 1
                else:
                    yield found.span("match")
                    at = found.end("match")


class Led(Placed):
    """The same of a pattern that begins with a lead."""

    def __init__(self, lead: str, rest: str) -> None:
        super().__init__(lead + rest)
        self._lead = lead

    @cached_property
    def beginnings(self) -> frozenset[str]:
        """In lower case, with any blank as a space: each match begins with one of them, "" if that says nothing."""
        found = {begun.rstrip("\0") for begun in _beginnings(_parser.parse(self._lead), {""})}
        return frozenset(each for each in found if not any(each[:length] in found for length in range(len(each))))

    def spans_at(self, text: str, starts: Iterable[int]) -> Iterator[Span]:
        """Of all matches. starts: ordered positions, all at which one may begin among them."""
        free = 0
        for start in starts:
            if start >= free and (found := self.pattern.match(text, start)):
                yield found.span()
                free = found.end()


class Leads:
    """Where in a text patterns may begin, all of them in one pass."""

    def __init__(self, patterns: Sequence[Led], edge: str) -> None:
        """patterns: none whose beginnings say nothing. edge: what holds wherever one matches, "" for nothing."""
        self._led: dict[str, list[Led]] = {}
        for pattern in patterns:
            for beginning in pattern.beginnings:
                self._led.setdefault(beginning, []).append(pattern)
        first = "".join(sorted({r"\s" if each[0] == " " else re.escape(each[0]) for each in self._led}))
        self._start = re.compile(f"{edge}[{first}]" if first else "(?!)")
        # Words are few, and each is looked up wherever it stands.
        self._beginning = lru_cache(maxsize=4096)(self._look_up)
        self._reach = max((pattern.reach for pattern in patterns), default=0)

    def starts(self, words: str, places: Sequence[Span]) -> dict[Led, list[int]]:
        """Where each of them may begin, in order. words: `lowered` of the text."""
        found: dict[Led, list[int]] = {}
        at = 0
        for start, end in places:
            for begins in self._start.finditer(words, max(at, start - self._reach), end + 1):
                first = begins.start()
                for pattern in self._beginning(words[first : first + LONGEST_BEGINNING]):
                    found.setdefault(pattern, []).append(first)
            at = max(at, end + 1)
        return found

    def _look_up(self, ahead: str) -> tuple[Led, ...]:
        """Those that may begin with what stands there, each once."""
        plain = "".join(_plain(ord(each)) for each in ahead)
        begun = (self._led.get(plain[: at + 1], ()) for at in range(len(plain)))
        return tuple(dict.fromkeys(chain.from_iterable(begun)))


def _ahead(tree: Iterable[tuple[Any, Any]]) -> int | None:
    """The most characters of a match ahead of its first letter A-J, or ahead of what stands for one: a branch without
    letters, of alternatives of which others have one. None if there is none.
    """
    ahead = 0
    for kind, told in tree:
        within: list[int | None] = []
        if kind is _constants.IN and _LETTERS in told:
            return ahead
        if kind is _constants.SUBPATTERN:
            within = [_ahead(told[3])]
        elif kind is _constants.BRANCH:
            within = [_ahead(each) for each in told[1]]
        if any(each is not None for each in within):
            return ahead + max(each or 0 for each in within)
        ahead += _parser.SubPattern(_parser.State(), [(kind, told)]).getwidth()[1]
    return None


def _beginnings(tree: Iterable[tuple[Any, Any]], begun: set[str]) -> set[str]:
    """What a match begins with that goes on from one of `begun`; one with a NUL at its end goes on with anything."""
    for kind, told in tree:
        growing = {each for each in begun if len(each) < LONGEST_BEGINNING and not each.endswith("\0")}
        if not growing:
            break
        begun = (begun - growing) | _continued(kind, told, growing)
    return begun


def _continued(kind: Any, told: Any, growing: set[str]) -> set[str]:
    if kind is _constants.ASSERT and told[0] > 0:
        return {each if each.endswith("\0") else f"{each}\0" for each in _beginnings(told[1], growing)}
    if kind in _ZERO_WIDTH:
        return growing
    if kind is _constants.SUBPATTERN:
        return _beginnings(told[3], growing)
    if kind is _constants.BRANCH:
        return set().union(*(_beginnings(each, growing) for each in told[1]))
    if kind in _REPEATS:
        least, most, repeated = told
        grown = _beginnings(repeated, growing)
        if most > 1:
            grown = {each if each.endswith("\0") else f"{each}\0" for each in grown}
        return grown | growing if least == 0 else grown
    if kind is _constants.LITERAL and told_by_lower_case(told):
        return {each + _plain(told) for each in growing}
    if kind is _constants.IN and told == _BLANK:
        return {f"{each} " for each in growing}
    if kind is _constants.IN and all(each is _constants.LITERAL and told_by_lower_case(code) for each, code in told):
        return {each + _plain(code) for each in growing for _, code in told}
    return {f"{each}\0" for each in growing}


def _plain(code: int) -> str:
    """In lower case, with any blank as a space."""
    return " " if chr(code).isspace() else chr(code).lower()
