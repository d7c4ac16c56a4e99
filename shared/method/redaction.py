"""Deleting stretches of a text while keeping account of each, as positions in the original."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, groupby

Span = tuple[int, int]


@dataclass(frozen=True)
class Removal:
    """A stretch that was taken out: original[start:end] is `text`; reason is one word."""

    start: int
    end: int
    text: str
    reason: str


class Draft:
    """A text under deletion. `text` always equals the original without the stretches in `removals()`."""

    def __init__(self, original: str) -> None:
        self.original = original
        self.text = original
        # For each character of `text`, where it stands in the original; for each of the original, why it went.
        self._kept = list(range(len(original)))
        self._reasons: list[str | None] = [None] * len(original)

    def delete(self, spans: list[Span], reason: str) -> None:
        """Take out ordered, disjoint spans of the current text. What was deleted inside them before joins them."""
        spans = [span for span in spans if span[0] < span[1]]
        if not spans:
            return
        for start, end in spans:
            # In the original a span may hold what went before: all of that now belongs to this removal.
            first, last = self._kept[start], self._kept[end - 1]
            self._reasons[first : last + 1] = [reason] * (last + 1 - first)
        rest = list(between(spans, len(self.text)))
        self._kept = list(chain.from_iterable(self._kept[start:end] for start, end in rest))
        self.text = "".join(self.text[start:end] for start, end in rest)

    def strip(self, reason: str) -> None:
        """Take out white space at both ends. What was deleted inside it before keeps its own reason."""
        start = len(self.text) - len(self.text.lstrip())
        end = max(start, len(self.text.rstrip()))
        for at in (*self._kept[:start], *self._kept[end:]):
            self._reasons[at] = reason
        self._kept, self.text = self._kept[start:end], self.text[start:end]

    def removals(self) -> list[Removal]:
        """What is gone, in order and disjoint; neighbours with the same reason are one."""
        removals, start = [], 0
        for reason, run in groupby(self._reasons):
            end = start + len(list(run))
            if reason is not None:
                removals.append(Removal(start, end, self.original[start:end], reason))
            start = end
        return removals


def between(spans: Iterable[Span], length: int) -> Iterator[Span]:
    """What lies between ordered, disjoint spans of a text of that length."""
    at = 0
    for start, end in spans:
        yield at, start
        at = end
    yield at, length


def merged(spans: Iterable[Span]) -> list[Span]:
    """The same ground as ordered, disjoint spans."""
    result: list[Span] = []
    for start, end in sorted(spans):
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        else:
            result.append((start, end))
    return result
