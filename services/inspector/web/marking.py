"""Which stretches of an exchange's texts a reader should see marked. Pure: texts in, pieces of text out.

What always holds: the pieces of a text put together are the text, character by character.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from shared.method.anchoring import review_feedback
from shared.method.concept_words import UNSPACED_LETTER, comparable, stands_in, words
from shared.method.redaction import Span
from shared.method.sanitizing import shadow

_WORD = re.compile(r"[^\s]+")
UNSEEN = frozenset({"blank"})

REASONS = {
    "concept_tag": "the concept, read by the anchor and not delivered",
    "over_long": "longer than a feedback may be",
    "invisible": "characters that nobody sees",
    "thinking": "hidden reasoning",
    "control_token": "a control token of a chat template",
    "reveal": "gives the answer away",
    "hostile": "built to get past the filter",
}
"""What each reason of a removal says to a reader."""


@dataclass(frozen=True)
class MarkedPiece:
    """A stretch of a text. mark: "" for plain text, `concept`, or the reason why it was removed."""

    text: str
    mark: str = ""

    @property
    def removed(self) -> bool:
        return self.mark in REASONS

    @property
    def why(self) -> str:
        return REASONS.get(self.mark, "")


def marked_concept(question: str, word: str | None) -> list[MarkedPiece]:
    """The problem with every word that the concept was matched by, in whatever spelling the anchor takes for it."""
    if word is None:
        return [MarkedPiece(question)]
    spans = [span for found in _WORD.finditer(question) for span in _matched(question, found.span(), word)]
    return _pieces(question, [(start, end, "concept") for start, end in spans])


def reviewed(raw: str) -> list[MarkedPiece]:
    """The raw feedback with all that the rules take out of it, each stretch with its reason."""
    removals = review_feedback(raw, "").removals
    return _pieces(raw, [(r.start, r.end, "" if r.reason in UNSEEN else r.reason) for r in removals])


def _matched(text: str, chunk: Span, word: str) -> Iterator[Span]:
    """Where the word stands in a chunk between blanks, which in some scripts is a whole sentence."""
    start, end = chunk
    plain = comparable(text[start:end])
    if not stands_in(word, plain, frozenset(words(plain))):
        return
    stretches = list(re.finditer(re.escape(word), shadow(text[start:end]), re.IGNORECASE))
    if not (stretches and UNSPACED_LETTER.search(text[start:end])):
        yield _core(text, chunk)
    else:
        yield from ((start + found.start(), start + found.end()) for found in stretches)


def _core(text: str, span: Span) -> Span:
    """The span without the punctuation around the word."""
    start, end = span
    while start < end and not text[start].isalnum():
        start += 1
    while end > start and not text[end - 1].isalnum():
        end -= 1
    return start, end


def _pieces(text: str, marks: Iterable[tuple[int, int, str]]) -> list[MarkedPiece]:
    found = list(marks)
    # Cutting at every start and end loses no character, wherever the marks lie.
    cuts = sorted({0, len(text), *(at for start, end, _ in found for at in (start, end))})
    mark_at = {start: mark for start, _, mark in found}
    pieces = [MarkedPiece(text[start:end], mark_at.get(start, "")) for start, end in pairwise(cuts)]
    return pieces or [MarkedPiece(text)]
