"""Cleaning text that a model wrote before another model reads it.

`sanitize` takes out of a feedback whatever reveals the option letter, hidden reasoning, chat control tokens and
invisible characters, and touches nothing else. What always holds: `sanitize` is idempotent, takes time linear in
the text, only ever deletes, and accounts for every deleted character in a `Removal`.
`neutralise_control_tokens` is the one place that makes untrusted text safe to put into a prompt.
"""

import re
import unicodedata
from collections.abc import Callable

from shared.method.redaction import Draft, Removal, Span, between, merged
from shared.method.reveals import revealing_spans
from shared.method.thinking import thinking_spans

MAX_PASSES = 3
"""Removing one thing may put together another. A text that still is not clean after this many passes was built
to defeat the filter; all of it goes."""

# Characters that are not seen: default-ignorable ones (zero-width, soft hyphen, direction marks, variation
# selectors, tags), control characters other than white space, and lone surrogates, which no encoder accepts.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ud800-\udfff\U000e0000-\U000e0fff]+"
)
_CONTROL_TOKEN = re.compile(
    r"<\|[^|<>\s]{1,64}\|>|</?s>|<(?:bos|eos|pad|unk)>|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>"
)
_TOKEN_OPENING = re.compile(
    r"[<＜﹤](?=[|｜]|/?s>|(?:bos|eos|pad|unk)>|(?:start|end)_of_turn>|</?SYS>>)"
    r"|\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_(?:CALLS|RESULTS|CONTENT))\])"
)
_SENTENCE_END = ".!?:\n。।؟"
_COMMAS = ",;、،"
_STOPS = frozenset(".,;:!?。、।؟،")
_PUNCTUATION = re.compile(r"[ \t]*[.,;:!?。、।؟،]{1,3}")
_FULL_STOP = re.compile(r"[ \t]*[.!?。।؟]{1,3}")
_BLANKS = re.compile(r"\s+")


def sanitize(body: str) -> str:
    """The feedback without anything that reveals an option letter (paper section 3.3 and more); see the module."""
    return sanitize_with_spans(body)[0]


def sanitize_with_spans(body: str) -> tuple[str, list[Removal]]:
    """The sanitized text and every removed stretch, as positions in `body`.

    Reasons: invisible, thinking, control_token, reveal, hostile.
    """
    draft = Draft(body)
    sanitize_draft(draft)
    return draft.text, draft.removals()


def sanitize_draft(draft: Draft) -> None:
    """The same on a text that is already being edited."""
    for _ in range(MAX_PASSES):
        before = draft.text
        for reason, stage in _STAGES.items():
            draft.delete(stage(draft.text), reason)
        if draft.text == before:
            return
    if any(stage(draft.text) for stage in _STAGES.values()):
        draft.delete([(0, len(draft.text))], "hostile")


def hide_unseen(draft: Draft) -> None:
    """Take out invisible characters and thinking, which no reader of the text is to see."""
    for reason in ("invisible", "thinking"):
        draft.delete(_STAGES[reason](draft.text), reason)


def neutralise_control_tokens(text: str) -> str:
    """The text with a space put into whatever a tokenizer would read as a chat control token.

    `<|im_end|>` becomes `< |im_end|>`: still legible, never the token. Full-width look-alikes, which some
    tokenizers fold, are broken up too. Idempotent; other text comes back unchanged.
    """
    return _TOKEN_OPENING.sub(lambda opening: opening.group() + " ", text)


def strip_thinking(text: str) -> str:
    """The text without the hidden reasoning of its model, such as `<think>` blocks (`shared.method.thinking`).

    An unclosed block swallows the rest; a closing tag without an opening one swallows what came before it, since
    some chat templates open the block inside the prompt. A text without such tags comes back unchanged.
    """
    spans = _joined(text, thinking_spans(shadow(text), in_feedback=False))
    return "".join(text[start:end] for start, end in between(spans, len(text)))


def remove_invisible(text: str) -> str:
    """The text without zero-width and other unseen characters (they can split a word that a rule looks for)."""
    return _INVISIBLE.sub("", text)


def shadow(text: str) -> str:
    """The text for matching: NFKC character by character, blanks as plain spaces; always of the same length."""
    return text if text.isascii() else "".join(map(_shadow_of, text))


def _shadow_of(character: str) -> str:
    if character.isascii():
        return character
    folded = unicodedata.normalize("NFKC", character)
    if len(folded) != 1:
        return character
    return " " if folded.isspace() else folded


def _invisible(text: str) -> list[Span]:
    return [match.span() for match in _INVISIBLE.finditer(text)]


def _thinking(text: str) -> list[Span]:
    return _joined(text, thinking_spans(shadow(text), in_feedback=True))


def _control_tokens(text: str) -> list[Span]:
    return _joined(text, [match.span() for match in _CONTROL_TOKEN.finditer(shadow(text))])


def _reveals(text: str) -> list[Span]:
    seen = shadow(text)
    spans = merged(revealing_spans(seen))
    return _joined(seen, [_with_its_punctuation(seen, start, end) for start, end in spans])


def with_its_stop(text: str, start: int, end: int) -> Span:
    """The span, with its full stop if it is a whole sentence."""
    if _begins_sentence(text, _behind_blanks(text, start)):
        return start, _matched_end(_FULL_STOP, text, end)
    return start, end


def _with_its_punctuation(text: str, start: int, end: int) -> Span:
    """A whole sentence takes its full stop along; a clause takes the blank or comma before the stop it leaves."""
    ahead = _behind_blanks(text, start)
    if _begins_sentence(text, ahead):
        return start, _matched_end(_PUNCTUATION, text, end)
    if text[end : end + 1] in _STOPS:
        return ahead - (text[ahead - 1] in _COMMAS), end
    return start, end


def _behind_blanks(text: str, at: int) -> int:
    while at and text[at - 1] in " \t":
        at -= 1
    return at


def _begins_sentence(text: str, at: int) -> bool:
    return at == 0 or text[at - 1] in _SENTENCE_END


def _joined(text: str, spans: list[Span]) -> list[Span]:
    """The spans, each with the blanks that would otherwise double up or dangle at an end of the text."""
    widened = []
    for start, end in spans:
        if start == 0 or text[start - 1].isspace():
            end = _matched_end(_BLANKS, text, end)
        widened.append((start, end))
    if widened and widened[-1][1] == len(text):
        start = len(text[: widened[-1][0]].rstrip())
        widened[-1] = (start, len(text))
    return merged(widened)


def _matched_end(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return found.end() if found else at


_STAGES: dict[str, Callable[[str], list[Span]]] = {
    "invisible": _invisible,
    "thinking": _thinking,
    "control_token": _control_tokens,
    "reveal": _reveals,
}
