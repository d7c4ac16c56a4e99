"""Where a text holds hidden reasoning, in the marks of the model families that write it.

A mark is told by its make: brackets around words, of which one is a word for thinking; with a slash or a word for an
end it closes. So `<seed:think>`, `<longcat_think>` and `<|plamo:begin_think:plamo|>` need no entry; what its words do
not tell is spelt out. Text alone decides, since who cleans a feedback has no tokenizer of the model that wrote it.
What always holds: a block ends at the next closing mark of its kind, an unclosed one reaches to the end; a closing mark
of models without an opening one hides what came before it, since some chat templates open the block inside the
prompt; words that also name a visible part of an answer are marks only where a tag begins a line or follows a tag;
time is linear in the text.
"""

import re
from collections.abc import Iterator
from enum import Enum, auto
from functools import lru_cache

from shared.method.needles import lowered, occurrences
from shared.method.redaction import Span

_THOUGHT = frozenset(
    {"think", "thinking", "thought", "thoughts", "antthinking", "scratchpad", "monologue", "innermonologue"}
)
_ASKED_FOR = frozenset({"analysis", "cot", "reason", "reasoning", "reflection"})
"""What prompts and data sets call a part that may well be visible, as SciKnowEval does with `<reasoning>`."""

_IN_SQUARES = frozenset({"think", "thinking"})  # `[thought]` and `[analysis]` are how people write an aside
_END = frozenset({"end"})

# gpt-oss: `<|channel|>analysis<|message|>…<|channel|>final<|message|>…`, and as decoded without special tokens
# `analysis…assistantfinal…`. Gemma: `<|channel>thought…<channel|>`. Solar: `<|think|>…<|content|>`. Apertus, openPangu.
_OPENING = (
    r"<\|channel\|?>\s{0,4}(?:analysis|commentary|thought)\b(?:<\|message\|>)?|\A\s{0,8}(?-i:analysis(?=[A-Z]))"
    r"|<\|inner_prefix\|>|\[unused16\]"
)
_BARE_CLOSING = "assistantfinal"
_CLOSING = (
    rf"<\|channel\|?>\s{{0,4}}final\b(?:<\|message\|>)?|<channel\|>|{_BARE_CLOSING}"
    r"|<\|content\|>|<\|inner_suffix\|>|\[unused17\]"
)
# Granite 3.2; Apriel
_SENTENCE = r"\A\s{0,8}Here(?:'s| is) my thought process:|\A\s{0,8}Here are my reasoning steps:"
_BARE_SENTENCE_ENDS = ("Here's my response:", "Here is my response:")
_SENTENCE_END = "|".join((*_BARE_SENTENCE_ENDS, r"\[BEGIN FINAL RESPONSE\]"))
_ATTRIBUTE = r"(?:\s{1,4}[\w:-]{1,40}\s?=[^<>]{0,80})?"

_MARK = re.compile(
    rf"(?P<opening>{_OPENING})|(?P<closing>{_CLOSING})"
    rf"|(?P<sentence>{_SENTENCE})|(?P<sentence_end>{_SENTENCE_END})"
    r"|<\|(?P<token>[^|<>\s]{1,64})\|>"
    rf"|(?:[<〈《]|&lt;)\s{{0,4}}(?P<tag>(?:/\s{{0,4}})?[a-z][\w:-]{{1,47}}){_ATTRIBUTE}\s{{0,4}}(?:[>〉》]|&gt;)"
    r"|[\[◁](?P<square>/?[a-z][a-z0-9_]{1,31})[\]▷]"
    r"|(?:\A|(?<=\n)) {0,3}```[ \t]{0,4}(?P<fence>[a-z]{0,16})[ \t\r]{0,4}(?=\n|\Z)",
    re.IGNORECASE,
)
# Where a mark may begin: at a bracket, escaped or not, at the start of a line or of the text, or with these words.
_BARE = tuple(each.lower() for each in (_BARE_CLOSING, *_BARE_SENTENCE_ENDS))
_PLACES = r"<〈《&\[◁\n"
_BEGINS = re.compile(f"[{_PLACES}]")
_BEGINS_OR_WORD = re.compile(f"(?i:[{_PLACES}{''.join(sorted({each[0] for each in _BARE}))}])")
_WORD = re.compile(r"[a-z]+")
# Bounded: each tag behind a long run of blanks would look through all of it again.
_BLANKS_AHEAD = 8


class _Kind(Enum):
    """Marks of one kind close each other's blocks."""

    HIDDEN = auto()
    ASKED_FOR = auto()
    FENCE = auto()
    SENTENCE = auto()


_Mark = tuple[_Kind, bool]
"""Its kind, and whether it opens a block."""


def thinking_spans(seen: str, *, in_feedback: bool) -> list[Span]:
    """Ordered, disjoint stretches of hidden reasoning. seen: the shadow of the text (`sanitizing.shadow`).

    in_feedback: also take what an answer may show because its data set asks for it, and which is no part of a
    feedback: `<reasoning>`, `<analysis>`, ….
    """
    return list(_spans(seen, in_feedback))


# Cleaning looks through a text again after each deletion, and mostly there was none.
@lru_cache(maxsize=16)
def _spans(seen: str, in_feedback: bool) -> tuple[Span, ...]:
    spans: list[Span] = []
    opened: tuple[int, _Kind] | None = None
    for found in _marks(seen):
        mark = _read(found, in_feedback=in_feedback)
        if mark is None:
            continue
        kind, opens = mark
        if opened is None and opens:
            opened = found.start(), kind
        elif opened is None and kind is _Kind.HIDDEN:
            spans = [(0, found.end())]
        elif opened is not None and not opens and kind is opened[1]:
            spans.append((opened[0], found.end()))
            opened = None
    if opened is not None:
        spans.append((opened[0], len(seen)))
    return tuple(spans)


def _marks(seen: str) -> Iterator[re.Match[str]]:
    """As `_MARK.finditer(seen)`, which would try the whole pattern at every character."""
    words = lowered(seen)
    begins = _BEGINS if words is not None else _BEGINS_OR_WORD
    starts = {found.end() if found[0] == "\n" else found.start() for found in begins.finditer(seen)}
    starts.update(at for each in _BARE for at in occurrences(each, words or ""))
    free = 0
    for start in sorted({0} | starts):
        if start >= free and (found := _MARK.match(seen, start)):
            yield found
            free = found.end()


def _read(found: re.Match[str], *, in_feedback: bool) -> _Mark | None:
    """What a stretch with the make of a mark is; None for one that has nothing to do with thinking."""
    shape = str(found.lastgroup)
    text = found[shape].lower()
    words = frozenset(_WORD.findall(text))
    match shape:
        case "opening" | "closing":
            return _Kind.HIDDEN, shape == "opening"
        case "sentence" | "sentence_end":
            return _Kind.SENTENCE, shape == "sentence"
        case "fence":
            opens = bool(words & (_THOUGHT | _ASKED_FOR if in_feedback else _THOUGHT))
            return (_Kind.FENCE, opens) if opens or not text else None
    opens = not (text.startswith("/") or words & _END)
    if words & (_IN_SQUARES if shape == "square" else _THOUGHT):
        return _Kind.HIDDEN, opens
    if in_feedback and shape == "tag" and text.strip("/ ") in _ASKED_FOR and (not opens or _stands_alone(found)):
        return _Kind.ASKED_FOR, opens
    return None


def _stands_alone(found: re.Match[str]) -> bool:
    """It begins a line or follows a tag; a tag within a sentence is one that the sentence speaks of."""
    start = found.start()
    ahead = found.string[max(0, start - _BLANKS_AHEAD) : start].rstrip(" \t")
    return not ahead or ahead[-1] in "\n>"
