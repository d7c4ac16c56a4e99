"""Prompts as ids, and what single tokens are, as bytes: one of most vocabularies need not be whole characters."""

import re
from functools import cached_property

from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from services.student.engines.port import GenerationRequest, TokenChoice
from shared.errors import PromptError
from shared.modeling.chat import encode, neutralise, render

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_SPACE = "\u2581"
"""How SentencePiece writes a space."""


def prompt_ids(tokenizer: PreTrainedTokenizerBase, request: GenerationRequest, vocabulary_size: int) -> list[int]:
    """What a request begins with, as ids. Raises PromptError where it is nothing, or an id that is none."""
    if request.prompt is None:
        return render(tokenizer, request.messages)
    if isinstance(request.prompt, str):
        ids = encode(tokenizer, neutralise(tokenizer, request.prompt))
    else:
        ids = list(request.prompt)
    if not ids:
        raise PromptError("prompt: expected at least one token, got none")
    if max(ids) >= vocabulary_size:
        raise PromptError(f"prompt: expected ids below {vocabulary_size}, the model's vocabulary, got {max(ids)}")
    return ids


class TokenTable:
    """From token ids to bytes."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    def choice(self, token: int, logprob: float) -> TokenChoice:
        return TokenChoice(self.data(token), logprob)

    def data(self, token: int) -> bytes:
        """The bytes that the token adds to a text; an added token's are its name."""
        name: str | None = self._tokenizer.convert_ids_to_tokens(token)
        # Output layers are often padded to a round size: a row behind the vocabulary's end can be drawn too.
        if name is None:
            return b""
        # Before the byte-level letters: an added token's name is plain text, and may hold letters that stand for none.
        if token in self._tokenizer.added_tokens_decoder:
            return name.encode()
        if self._letters is not None:
            return bytes(self._letters[letter] for letter in name)
        if byte := _BYTE.fullmatch(name):
            return bytes.fromhex(byte[1])
        return name.replace(_SPACE, " ").encode()

    @cached_property
    def _letters(self) -> dict[str, int] | None:
        """The byte that each letter stands for in a byte-level vocabulary (GPT-2's); None for another one."""
        if '"ByteLevel"' not in self._tokenizer.backend_tokenizer.to_str():
            return None
        return {letter: byte for byte, letter in bytes_to_unicode().items()}
