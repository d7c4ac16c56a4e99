"""Where a text holds hidden reasoning, in the marks of the model families that write it.

What always holds: an unclosed block reaches to the end; a closing mark without an opening one hides what came before
it, since some chat templates open the block inside the prompt; time is linear in the text.
"""

import re

from shared.method.redaction import Span

_NAMES = r"think|thinking|thoughts?|inner_?monologue|scratchpad|(?:seed:|antml:|ant)think(?:ing)?"
# gpt-oss: `<|channel|>analysis<|message|>…<|channel|>final<|message|>…`, and as decoded without special tokens
# `analysis…assistantfinal…`. Gemma: `<|channel>thought…<channel|>`.
_CHANNEL = r"<\|channel\|?>\s{0,4}(?:analysis|commentary|thought)\b(?:<\|message\|>)?|\A\s{0,8}(?-i:analysis(?=[A-Z]))"
_CHANNEL_END = r"<\|channel\|?>\s{0,4}final\b(?:<\|message\|>)?|<channel\|>|assistantfinal"


def _marks(names: str) -> re.Pattern[str]:
    """Opening and closing marks: `<think>`, `[THINK]`, `◁think▷`, `<|begin_of_thought|>`, `<|START_THINKING|>`."""
    attributes = r"(?:\s{1,4}[\w:-]{1,40}\s?=[^<>]{0,80})?"
    return re.compile(
        rf"(?P<opening>[<〈《]\s{{0,4}}(?:{names}){attributes}\s{{0,4}}[>〉》]|\[think(?:ing)?\]|◁think(?:ing)?▷"
        rf"|<\|(?:begin_of_|start_)?(?:{names})\|>|{_CHANNEL})"
        rf"|[<〈《]\s{{0,4}}/\s{{0,4}}(?:{names})\s{{0,4}}[>〉》]|\[/think(?:ing)?\]|◁/think(?:ing)?▷"
        rf"|<\|(?:end_of_|end_|/)(?:{names})\|>|{_CHANNEL_END}",
        re.IGNORECASE,
    )


NATIVE = _marks(_NAMES)
"""What chat models are trained to set around what nobody is to read."""

IN_FEEDBACK = _marks(rf"{_NAMES}|reasoning|reflection")
"""The same with tags that data sets ask for as the visible part of an answer, as SciKnowEval does: such a block stays
in a demonstration, and is no part of a feedback."""


def thinking_spans(seen: str, marks: re.Pattern[str]) -> list[Span]:
    """Ordered, disjoint stretches of hidden reasoning. seen: the shadow of the text (`sanitizing.shadow`)."""
    spans: list[Span] = []
    opened: int | None = None
    for mark in marks.finditer(seen):
        if mark["opening"] is not None:
            opened = mark.start() if opened is None else opened
        elif opened is None:
            spans = [(0, mark.end())]
        else:
            spans.append((opened, mark.end()))
            opened = None
    if opened is not None:
        spans.append((opened, len(seen)))
    return spans
