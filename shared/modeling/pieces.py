"""Token ids as pieces of text for people to read: one piece a token, together the whole text."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

_BROKEN = "\ufffd"
"""What a decoder writes for bytes that are not a whole character (yet)."""


def text_pieces(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """Return the text that each token adds, special tokens included.

    A character made of several tokens belongs to the last of them; the pieces before it are empty. Each piece is
    read after its predecessor, since some decoders treat the first token of a text otherwise.
    """
    pieces: list[str] = []
    start = read = 0
    for end in range(1, len(ids) + 1):
        before, now = _decode(tokenizer, ids[start:read]), _decode(tokenizer, ids[start:end])
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
