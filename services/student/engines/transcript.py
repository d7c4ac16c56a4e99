"""The text of one sample as its tokens come.

What always holds: what was told never changes, and in the end it is the text of the sample; text that may still
become a stop string, and bytes that are not yet a character, wait.
"""

from tokenizers.decoders import DecodeStream
from transformers import PreTrainedTokenizerBase

from services.student.engines.port import GenerationRequest, Piece, TokenDetail


class Transcript:
    """Of a sample that somebody watches, or that may end with a stop string."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, request: GenerationRequest) -> None:
        self._tokenizer = tokenizer
        self._request = request
        self._stream = DecodeStream(skip_special_tokens=True)
        self._longest_stop = max(map(len, request.stop), default=0)
        self._text = ""
        self._starts: list[int] = []  # how much text there was before each token
        self._details: list[TokenDetail] = []
        self._told = 0
        self._told_details = 0

    def add(self, token: int, detail: TokenDetail | None) -> bool:
        """Take in a token; whether a stop string is now complete."""
        before = len(self._text)
        self._starts.append(before)
        if detail is not None:
            self._details.append(detail)
        self._text += self._stream.step(self._tokenizer.backend_tokenizer, token) or ""
        return self._stop_from(max(0, before - self._longest_stop)) is not None

    def tell(self) -> None:
        """Pass on what is final by now."""
        self._pass_on(self._text, len(self._text) - self._held_back())

    def end(self, text: str) -> tuple[str, tuple[TokenDetail, ...]]:
        """Pass on the rest. `text`: of all tokens; returns it, up to a stop string, with the details of its tokens."""
        stop = self._stop_from(0)
        final = text if stop is None else text[:stop]
        self._pass_on(final, len(final))
        return final, tuple(self._details[: self._tokens_within(len(final))])

    def _stop_from(self, start: int) -> int | None:
        found = [at for stop in self._request.stop if (at := self._text.find(stop, start)) >= 0]
        return min(found, default=None)

    def _held_back(self) -> int:
        """Length of the longest end of the text that some stop string begins with."""
        for length in range(min(self._longest_stop - 1, len(self._text)), 0, -1):
            if any(stop.startswith(self._text[-length:]) for stop in self._request.stop):
                return length
        return 0

    def _tokens_within(self, length: int) -> int:
        """How many tokens, of those with details, begin within so many characters."""
        return sum(start < length for start in self._starts[: len(self._details)])

    def _pass_on(self, text: str, length: int) -> None:
        if self._request.audience is None or length <= self._told:
            return
        details = tuple(self._details[self._told_details : self._tokens_within(length)])
        self._request.audience.tell(Piece(text[self._told : length], details))
        self._told, self._told_details = length, self._told_details + len(details)
