"""What changed from a student's first answer to its next, word by word, and which new words the feedback has. Pure.

What always holds: without what is gone the pieces are the new answer, without what is new the first, character by
character. That a word is in the feedback and new in the answer does not say that it came from there.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import Match, SequenceMatcher
from itertools import accumulate

from services.inspector.web.marking import MarkedPiece
from shared.method.scripts import HANGUL, UNSPACED

MOST_PARTS = 3000
"""Of an answer: the time to compare goes with the square of it, and no reader follows marks through so long a text."""

MOST_WORK = 25_000_000
"""Pairs of equal parts that are looked at, about a second of one core. Texts of the most parts need less; those that
share nothing but single signs would take minutes, as each of these splits off no more than itself."""

# A letter where blanks do not tell words apart, else a word, a stretch of blanks, or one other character.
_PART = re.compile(rf"[{UNSPACED}{HANGUL}]|[^\W{UNSPACED}{HANGUL}]+|\s+|.", re.DOTALL)


@dataclass(frozen=True)
class Change:
    """pieces: marked `gone`, `added`, or `advised` where an added word is in the feedback and was not in the first
    answer. advised: these words, each once."""

    pieces: list[MarkedPiece]
    advised: list[str]

    @property
    def same(self) -> bool:
        """Whether nothing is gone and nothing new."""
        return not any(piece.mark for piece in self.pieces)


def change_of(first: str, again: str, feedback: str | None, most_work: int = MOST_WORK) -> Change | None:
    """None where an answer is too long to be compared, or the two take more than `most_work`. What takes
    a second is not for an event loop."""
    before, after = _PART.findall(first), _PART.findall(again)
    if max(len(before), len(after)) > MOST_PARTS:
        return None
    try:
        steps = _Comparison(before, after, most_work).get_opcodes()
    except _TooMuchError:
        return None
    advised = (_words(_PART.findall(feedback or "")) - _words(before)) & _words(after)
    pieces: list[MarkedPiece] = []
    for what, begin, end, new_begin, new_end in steps:
        if what == "equal":
            pieces.append(MarkedPiece("".join(after[new_begin:new_end])))
            continue
        pieces += _marked(before[begin:end], "gone")
        pieces += _added(after[new_begin:new_end], advised)
    found = [part for part in after if part.casefold() in advised]
    return Change(pieces, list(dict.fromkeys(found)))


class _TooMuchError(Exception):
    """A comparison that has used up its work."""


class _Comparison(SequenceMatcher[str]):
    """Raises _TooMuchError from what compares."""

    def __init__(self, before: list[str], after: list[str], most_work: int) -> None:
        super().__init__(None, before, after, autojunk=False)
        # Of the parts in front of each, what difflib does for one: it is looked up, and held against each equal one.
        equal = Counter(after)
        self._work = list(accumulate((1 + equal[part] for part in before), initial=0))
        self._left = most_work

    def find_longest_match(self, alo: int = 0, ahi: int | None = None, blo: int = 0, bhi: int | None = None) -> Match:
        self._left -= self._work[-1 if ahi is None else ahi] - self._work[alo]
        if self._left < 0:
            raise _TooMuchError
        return super().find_longest_match(alo, ahi, blo, bhi)


def _words(parts: Iterable[str]) -> set[str]:
    return {part.casefold() for part in parts if any(map(str.isalnum, part))}


def _added(parts: list[str], advised: set[str]) -> list[MarkedPiece]:
    """Each advised word by itself, and what is between them together."""
    pieces: list[MarkedPiece] = []
    between: list[str] = []
    for part in parts:
        if part.casefold() not in advised:
            between.append(part)
            continue
        pieces += [*_marked(between, "added"), MarkedPiece(part, "advised")]
        between = []
    return [*pieces, *_marked(between, "added")]


def _marked(parts: list[str], mark: str) -> list[MarkedPiece]:
    return [MarkedPiece("".join(parts), mark)] if parts else []
