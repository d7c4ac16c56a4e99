"""Which stretches of an exchange's texts a reader should see marked. Pure: texts in, pieces of text out.

What always holds: the pieces of a text put together are the text, character by character.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from shared.method.anchoring import review_feedback
from shared.method.concept_words import UNSPACED_LETTER, comparable, stands_in, words
from shared.method.redaction import Draft, Span, merged
from shared.method.sanitizing import shadow
from shared.problems.problem import removed_by

_WORD = re.compile(r"[^\s]+")
UNSEEN = frozenset({"blank"})
MOST_TRIES, MOST_PIECES = 1000, 100
"""To find where pieces were taken out of a text that may have each several times; most are found at the first."""

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


def reviewed(raw: str, removed: Sequence[str] = (), left: str | None = None) -> list[MarkedPiece]:
    """The raw feedback with all that was taken out of it, each stretch with its reason.

    removed, left: of the exchange. They tell what the problems' own format took out, beyond the rules for all; where
    it stood is not marked if texts are cut.
    """
    review, draft = review_feedback(raw, ""), Draft(raw)
    # From the last one on, so that those before it stand where they stood.
    for removal in reversed(review.removals):
        draft.delete([(removal.start, removal.end)], removal.reason)
    own = removed[len(removed_by(review)) :]
    if own and (kept := _Search(left).without(list(range(len(draft.text))), draft.text, own[:MOST_PIECES])) is not None:
        gone = sorted(set(range(len(draft.text))) - set(kept))
        draft.delete(merged((at, at + 1) for at in gone), "reveal")
    return _pieces(raw, [(r.start, r.end, "" if r.reason in UNSEEN else r.reason) for r in draft.removals()])


class _Search:
    """left: what stays of a text once all pieces are taken out of it; None where nothing was delivered."""

    def __init__(self, left: str | None) -> None:
        self._left = left
        self._tries = MOST_TRIES

    def without(self, places: list[int], text: str, pieces: Sequence[str]) -> list[int] | None:
        """Of the places of a text's characters those that stay; None where it does not come out."""
        if not pieces:
            return places if self._is_left(text) else None
        begin = text.find(pieces[0])
        while begin >= 0 and self._tries > 0:
            self._tries -= 1
            end = begin + len(pieces[0])
            found = self.without(places[:begin] + places[end:], text[:begin] + text[end:], pieces[1:])
            if found is not None:
                return found
            begin = text.find(pieces[0], begin + 1)
        return None

    def _is_left(self, text: str) -> bool:
        return text.strip() == self._left if self._left is not None else not any(map(str.isalnum, text))


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
