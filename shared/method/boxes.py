"""Boxed option letters, whatever LaTeX stands between the box and its letter.

A box is judged by what it shows: `\\boxed{\\textbf{(C) }\\frac{7}{3}}` shows the letter C and its value, and goes with
both; `\\boxed{2\\times10^5}`, `\\boxed{CO_2}` and `\\boxed{\\frac{A}{B}}` show no letter. What always holds: a box that
never closes is no box here (`reveals.py` has a pattern for its beginning); time is linear in the text.
"""

import re

from shared.method.languages import LANGUAGES, loose
from shared.method.redaction import Span

MAX_BOX_CHARS = 300
"""A box around an option holds a letter and a value; longer ones are derivations."""

_BOX = re.compile(r"\\(?:boxed|fbox|framebox|boxit)\s{0,3}\{")
_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)
_UNSHOWN = re.compile(
    r"\\(?:text)?color\s?(?:\[\w{0,10}\]\s?)?\{[^{}]{0,30}\}"
    r"|\\(?:text|math)[a-z]{0,8}\b|\\(?:bf|rm|it|tt|sf|bm|bfseries|itshape|boldsymbol|operatorname|mbox|fbox|boxed"
    r"|displaystyle|underline|[Ll]arge|LARGE|[Hh]uge|normalsize|left|right)\b"
)
_SPACING = re.compile(r"\\(?:[,;:!> ]|q?quad\b|hspace\*?\{[^{}]{0,20}\})|~")
_MARKUP = re.compile(r"[{}$*]")
_DOLLARS_BEFORE = re.compile(r"(\${1,2}) {0,2}\Z")
_DOLLARS_AFTER = re.compile(r" {0,2}(\${1,2})")
_NAMED = "|".join(filter(None, (part for each in LANGUAGES for part in (each.option, each.answer))))
_LETTER = re.compile(
    rf"\s*(?:(?i:(?:the\s)?(?:(?:correct|final)\s)?(?:option|answer|choice|{loose(_NAMED)}))(?:\s?is\b)?"
    r"(?:\s?:\s{0,3}|\s{1,3}|(?<=[^\x00-\u024f])))?"
    r"(?:[(\[]\s?[A-Ja-j]\s?[)\]].*"
    r"|[A-Ja-j](?:\s?[:.)](?!\d).*|\s?(?:,|and|or|&)\s?[A-J](?![\w^'])[\s.]*|\s+[\d(\\].*|[\s.,;!]*))",
    re.DOTALL,
)


def boxed_letters(text: str) -> list[Span]:
    """Where closed boxes are that show an option letter, with the dollar signs around them. In order, disjoint."""
    closing = _closing_braces(text)
    spans: list[Span] = []
    for box in _BOX.finditer(text):
        end = closing.get(box.end() - 1)
        if end is None or end - box.end() > MAX_BOX_CHARS or (spans and box.start() < spans[-1][1]):
            continue
        if _LETTER.fullmatch(_shown(text[box.end() : end])):
            spans.append(_with_dollars(text, box.start(), end + 1))
    return spans


def _closing_braces(text: str) -> dict[int, int]:
    """Position of each opening brace that is closed -> that of its closing one."""
    opened: list[int] = []
    closing: dict[int, int] = {}
    for brace in _BRACES.finditer(text):
        if brace.group() == "{":
            opened.append(brace.start())
        elif brace.group() == "}" and opened:
            closing[opened.pop()] = brace.start()
    return closing


def _shown(content: str) -> str:
    return _MARKUP.sub("", _SPACING.sub(" ", _UNSHOWN.sub("", content)))


def _with_dollars(text: str, start: int, end: int) -> Span:
    for dollars in ("$$", "$"):
        before, after = _DOLLARS_BEFORE.search(text, max(0, start - 5), start), _DOLLARS_AFTER.match(text, end)
        if before and after and before[1].endswith(dollars) and after[1].startswith(dollars):
            return before.end(1) - len(dollars), after.start(1) + len(dollars)
    return start, end
