"""Messages to token ids, the same in student, trainer and `specialize`; and ids back to pieces of text for people.

What a message contains never becomes a special token: those are the template's alone.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import date
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from shared.contracts.messages import ChatMessage
from shared.errors import ModelError, PromptError, reason
from shared.method.sanitizing import shadow
from shared.method.thinking import thinking_spans

Messages = Sequence[ChatMessage | Mapping[str, str]]

# A template refuses by `raise_exception`, or by an operation that the messages do not allow
_REFUSALS = (TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError)

DATE = date(2024, 7, 26)
"""Today, to a chat template that writes the date; Llama 3.2's has this one where nobody tells it."""

_TODAY = re.compile(r"""\bstrftime_now\(\s*(["'])([^"'{}]*)\1\s*\)""")

FIXED_TEXTS = ("Q: 3 A through 4 ohm, 1024.5 kJ/mol?\nA: 12", "<think>\n\n</think>\n\nGrüße, 東京 👍🏽 \u0301")
"""Digits, line breaks, tags, and characters of several bytes: where tokenizers of one family differ."""


def render(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> list[int]:
    """Return the prompt's token ids, up to where the model speaks; a template that knows thinking has it off.

    Special tokens spelt out in a content are broken up with a space. Raises PromptError where a content would become a
    special token all the same, or where the template refuses the messages.
    """
    turns = [_as_turn(message) for message in messages]
    specials = special_ids(tokenizer)
    for turn in turns:
        turn["content"] = neutralise(tokenizer, turn["content"])
    ids = encode(tokenizer, rendered(tokenizer, turns))
    blank = [turn if turn["role"] == "system" else {**turn, "content": "x"} for turn in turns]
    # Special tokens that are there with blank contents, too, are the template's own; any more came from a content.
    expected = encode(tokenizer, rendered(tokenizer, blank))
    excess = _count(ids, specials) - _count(expected, specials)
    if excess:
        names = tokenizer.convert_ids_to_tokens(sorted(excess))
        raise PromptError(f"expected plain text in the messages, but it becomes the special tokens {names}")
    return ids


def completion_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the ids of an answer that ends: `text` as it follows the generation prompt, then the eos token.

    Between the two is what the template writes there itself; where it does not tell, one space behind words ("A:"),
    and nothing behind white space or a token of its own. The mark of a block that the prompt has opened is not written
    twice.
    """
    opened = opened_block(tokenizer)
    body = neutralise(tokenizer, text.strip().removeprefix(opened).removeprefix(opened.rstrip()))
    return [*encode(tokenizer, _between(tokenizer) + body), int(tokenizer.eos_token_id)]


def require_told_in_text(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a model whose answers cannot be kept as texts: between prompt and answer its template writes something of
    its own, such as the name of a channel or the end of thoughts, and an answer that was drawn may have it elsewhere,
    or not at all. Raises ModelError.
    """
    between = _between(tokenizer)
    if between.strip():
        raise ModelError(
            f'specialize.source = "self" keeps answers as texts, and before an answer this model\'s chat template has '
            f"something of its own, {between!r}: name a file of examples (students.<name>.examples), set "
            'specialize.source = "problems", or choose another model'
        )


def _between(tokenizer: PreTrainedTokenizerBase) -> str:
    asked, answer = {"role": "user", "content": "x"}, "7215"
    prompt = rendered(tokenizer, [asked])
    with suppress(PromptError):
        whole = rendered(tokenizer, [asked, {"role": "assistant", "content": answer}])
        if whole.startswith(prompt) and answer in whole:
            return whole[len(prompt) : whole.index(answer)]
    # Of roles some models have tokens that are not marked as special.
    own = special_ids(tokenizer).union(tokenizer.added_tokens_decoder)
    apart = prompt[-1:].isspace() or not own.isdisjoint(encode(tokenizer, prompt)[-1:])
    return "" if apart else " "


def opened_block(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return what the template writes of a block of hidden reasoning in which the model goes on, "" if it does not:
    `<think>\n`. An answer's own text does not hold it.
    """
    asked = "question"
    with suppress(PromptError):
        behind = rendered(tokenizer, [{"role": "user", "content": asked}]).rpartition(asked)[2]
        spans = thinking_spans(shadow(f"{behind}answer"), in_feedback=True)
        if spans and spans[-1][1] > len(behind):
            return behind[spans[-1][0] :]
    return ""


def special_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the ids that only a template may produce (an `unk` that is nothing else is not one of them)."""
    added = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    named = {index for index in tokenizer.all_special_ids if index is not None}  # None: a name without a token
    only_unk = {tokenizer.unk_token_id} - {tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id}
    return frozenset((added | named) - only_unk)


def neutralise(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Return `text` with a space after the first character of every special token that it spells out."""
    names = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    for name in names:
        if len(name) > 1:
            # Still legible, and not the token any more. One of a single character cannot be broken up; `render` sees
            # it.
            text = text.replace(name, f"{name[0]} {name[1:]}")
    return text


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the ids of `text` alone, nothing added before or after."""
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def rendering_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """sha256 (hex) of what decides the ids of messages: the chat template, the ids of fixed texts, special tokens.

    Two processes that render for one student must agree on it.
    """
    specials = sorted((index, tokenizer.convert_ids_to_tokens(index)) for index in special_ids(tokenizer))
    parts = [tokenizer.chat_template, [encode(tokenizer, text) for text in FIXED_TEXTS], specials]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def dated(template: str) -> str:
    """A chat template that writes today's date, with one date for good: a step that is made again after midnight, and a
    test on another day, ask the same."""
    return _TODAY.sub(lambda found: json.dumps(DATE.strftime(found[2])), template)


def _as_turn(message: ChatMessage | Mapping[str, str]) -> dict[str, str]:
    if isinstance(message, ChatMessage):
        return {"role": message.role, "content": message.content}
    return {"role": message["role"], "content": message["content"]}


def rendered(tokenizer: PreTrainedTokenizerBase, turns: Sequence[dict[str, str]], *, thinking: bool = False) -> str:
    """Return the text of a prompt as the template writes it, contents as they are. Raises PromptError.

    thinking: what a template that has the choice is told, under the name that it knows.
    """
    options: dict[str, Any] = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": thinking}
    if thinking:
        # Left out where it is off, which is what those who know it by this name then take.
        options["thinking"] = True
    try:
        text: str = tokenizer.apply_chat_template(list(turns), **options)
    except _REFUSALS as error:
        roles = ", ".join(turn["role"] for turn in turns)
        raise PromptError(f"the model's chat template refuses these messages ({roles}): {reason(error)}") from error
    return text


def _count(ids: Sequence[int], specials: frozenset[int]) -> Counter[int]:
    return Counter(index for index in ids if index in specials)


# What a decoder writes for bytes that are not a whole character (yet).
_BROKEN = "\ufffd"


def text_pieces(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """Return the text that each token adds, special tokens included.

    A character made of several tokens belongs to the last of them; the pieces before it are empty. Each piece is
    read after its predecessor, since some decoders treat the first token of a text otherwise.
    """
    pieces: list[str] = []
    start = read = 0
    for end in range(1, len(ids) + 1):
        before, now = _decode(tokenizer, ids[start:read]), _decode(tokenizer, ids[start:end])
        # A broken end may become a character with the next token; the last one has to stay as it is.
        whole = end == len(ids) or not now.endswith(_BROKEN)
        pieces.append(now[len(before) :] if whole else "")
        if whole:
            start, read = read, end
    return pieces


def lone_piece(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """Return the text of one token on its own."""
    return _decode(tokenizer, [token])


def _decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    text = tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text
