"""Whether a tutor's feedback is about this problem, and what of it may be shown (paper section 3.3, C.2).

A feedback is delivered only with the verdict `match:<word>`: its first concept tag must share a telling word
with the problem. The first tag decides alone; a nested or unclosed one is malformed. What the anchor cannot do is
tell apart two problems with shared vocabulary: requests are bound to their answers by id elsewhere.
"""

import re
from dataclasses import dataclass

from shared.method.concept_words import anchoring_words, comparable, stands_in, words
from shared.method.redaction import Draft, Removal, Span
from shared.method.sanitizing import hide_unseen, sanitize_draft, shadow
from shared.method.tutor_prompt import without_instruction_line

FB_NONE = "fb_none"
NO_CONCEPT_TAG = "no_concept_tag"
EMPTY = "empty"
ALL_GENERIC = "all_generic"
NO_MATCH = "no_match"
MATCH = "match:"
UNANCHORED = "unanchored"
"""Delivered without a check, because the prompt that asked for it (the naive one) wants no concept."""

VERDICTS = (MATCH.rstrip(":"), UNANCHORED, NO_MATCH, NO_CONCEPT_TAG, EMPTY, ALL_GENERIC, FB_NONE)
"""Every one, that of a match without its word."""

MAX_FEEDBACK_CHARS = 2000
"""Longer feedback is cut at a sentence. The prompt asks for about 80 words, so only runaway text gets here."""

# Blanks inside a tag are forgiven, a few: with bounded repetitions matching stays linear in any text.
_OPEN_TAG = re.compile(r"<\s{0,4}concept\s{0,4}>", re.IGNORECASE)
_CLOSE_TAG = re.compile(r"<\s{0,4}/\s{0,4}concept\s{0,4}>", re.IGNORECASE)
_ANY_TAG = re.compile(r"<\s{0,4}/?\s{0,4}concept\s{0,4}>", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?؟।][\"')\]”’]{0,3}(?=\s|$)|[。！？][\"')\]”’」』）]{0,3}")


@dataclass(frozen=True)
class Review:
    """A raw feedback with everything decided about it.

    body: the cleaned feedback whatever the verdict (None if nothing is left); delivered: the same if it may reach
    the tutee, else None; removals: all that was taken out, as positions in the raw text, each with its reason
    (concept_tag, over_long, blank, or one of the sanitizer's).
    """

    verdict: str
    concept: str | None
    body: str | None
    delivered: str | None
    removals: list[Removal]


def verdict(raw: str | None, problem: str) -> str:
    """What becomes of a raw feedback: `match:<word>`, no_concept_tag, empty, all_generic, no_match or fb_none.

    raw: the tutor's whole output, None if there is none. problem: its full text; the closing instruction line does
    not count.
    """
    return _verdict(_visible(raw), problem)


def concept(raw: str | None) -> str | None:
    """What the first concept tag says, on one line; None without a well-formed tag, "" for an empty one."""
    return _concept(_visible(raw))


def _verdict(text: str, problem: str) -> str:
    if not text:
        return FB_NONE
    tag = _first_tag(text)
    if tag is None:
        return NO_CONCEPT_TAG
    named = text[tag.content_start : tag.content_end].strip()
    if not named:
        return EMPTY
    question = without_instruction_line(problem)
    candidates = anchoring_words(named, question)
    if not candidates:
        return ALL_GENERIC
    return _match(candidates, question)


def _concept(text: str) -> str | None:
    tag = _first_tag(text)
    return None if tag is None else " ".join(text[tag.content_start : tag.content_end].split())


def review_feedback(raw: str | None, problem: str) -> Review:
    """Everything about a raw feedback. Never raises.

    Validates the raw text, strips the tags, sanitizes, cuts over-long feedback; if only punctuation is left the
    verdict is fb_none.
    """
    draft = Draft(raw or "")
    hide_unseen(draft)
    seen = draft.text.strip()
    # On what is not yet cleaned: cleaning may take the very word away that anchors it.
    word = _verdict(seen, problem)
    draft.delete(_tag_spans(draft.text), "concept_tag")
    sanitize_draft(draft)
    draft.strip("blank")
    # Cleaned once more after the cut: half of something harmless may reveal.
    if len(draft.text) > MAX_FEEDBACK_CHARS:
        draft.delete([(_sentence_cut(draft.text, MAX_FEEDBACK_CHARS), len(draft.text))], "over_long")
        sanitize_draft(draft)
        draft.strip("blank")
    body = draft.text if any(map(str.isalnum, draft.text)) else None
    matched = word.startswith(MATCH)
    word = FB_NONE if matched and body is None else word
    return Review(word, _concept(seen), body, body if matched else None, draft.removals())


@dataclass(frozen=True)
class _Tag:
    start: int
    content_start: int
    content_end: int
    end: int


def _visible(raw: str | None) -> str:
    draft = Draft(raw or "")
    hide_unseen(draft)
    return draft.text.strip()


def _first_tag(text: str) -> _Tag | None:
    """The first concept tag with its closing one; None if it is absent, unclosed or holds another opening tag."""
    seen = shadow(text)
    opening = _OPEN_TAG.search(seen)
    closing = _CLOSE_TAG.search(seen, opening.end()) if opening else None
    if opening is None or closing is None or _OPEN_TAG.search(seen, opening.end(), closing.start()):
        return None
    return _Tag(opening.start(), opening.end(), closing.start(), closing.end())


def _match(candidates: list[str], problem: str) -> str:
    known, text = frozenset(words(problem)), comparable(problem)
    found = next((word for word in candidates if stands_in(word, text, known)), None)
    return NO_MATCH if found is None else MATCH + found


def _tag_spans(text: str) -> list[Span]:
    """The first concept tag with what it holds; of further ones, which stand inside sentences, only the markup."""
    tag = _first_tag(text)
    start = tag.end if tag else 0
    markup = [stray.span() for stray in _ANY_TAG.finditer(shadow(text), start)]
    return markup if tag is None else [(tag.start, tag.end), *markup]


def _sentence_cut(text: str, cap: int) -> int:
    """Where to cut to keep at most cap characters: after a sentence in the second half, else after a word."""
    ends = [end.end() for end in _SENTENCE_END.finditer(text[: cap + 1])]
    fitting = [end for end in ends if cap // 2 <= end <= cap]
    blank = text.rfind(" ", cap // 2, cap + 1)
    return fitting[-1] if fitting else (cap if blank < 0 else blank)
