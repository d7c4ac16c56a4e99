"""The text of one sample as its tokens come.

What always holds: what was told never changes, and in the end it is the text of the sample, which is what `AnswerText`
makes of all its tokens; text that may still become a stop string, and bytes that are not yet a character, wait.
"""

import re

from services.student.engines.port import GenerationRequest, Piece, TokenDetail
from shared.modeling.thinking import AnswerText

_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_REPLACED = "\ufffd"


class Transcript:
    """Of a sample that somebody watches, or that may end with a stop string."""

    def __init__(self, text: AnswerText, request: GenerationRequest) -> None:
        self._request = request
        self._decoding = _Decoding(text)
        self._longest_stop = max(map(len, request.stop), default=0)
        self._searched = 0  # how much of the final text was looked through for stop strings
        self._stop: int | None = None  # where the first one begins in the final text
        self._starts: list[int] = []  # how much text there was before each token
        self._details: list[TokenDetail] = []
        self._told = 0
        self._told_details = 0

    def add(self, token: int, detail: TokenDetail | None) -> bool:
        """Take in a token; whether a stop string is now complete, if no token follows."""
        # `likely` may become shorter, but a start never goes back: details are cut by counting the starts within a
        # length, which needs them in order.
        self._starts.append(max(len(self._decoding.text) + len(self._decoding.likely), *self._starts[-1:], 0))
        if detail is not None:
            self._details.append(detail)
        self._decoding.add(token)
        return self._find_stop() is not None

    def tell(self) -> None:
        """Pass on what is final by now."""
        text = self._decoding.text
        self._pass_on(text, len(text) - self._held_back(text) if self._stop is None else self._stop)

    def end(self) -> tuple[str, tuple[TokenDetail, ...]]:
        """Pass on the rest; return the whole text, up to a stop string, with the details of its tokens."""
        self._decoding.end()
        self._find_stop()
        final = self._decoding.text[: self._stop]
        self._pass_on(final, len(final))
        told = len(self._details) if self._request.echo else self._tokens_within(len(final))
        return final, tuple(self._details[:told])

    def _find_stop(self) -> int | None:
        """Where the first stop string begins, in the final text or else in what it is likely to become."""
        final = self._decoding.text
        if self._stop is None:
            # A stop string may begin in text that was searched before, and end in the new.
            start = max(0, self._searched - self._longest_stop)
            self._stop, self._searched = self._first_stop(final, start), len(final)
        if self._stop is not None or not self._decoding.likely:
            return self._stop
        return self._first_stop(final + self._decoding.likely, max(0, len(final) - self._longest_stop))

    def _first_stop(self, text: str, start: int) -> int | None:
        found = [at for stop in self._request.stop if (at := text.find(stop, start)) >= 0]
        return min(found, default=None)

    def _held_back(self, text: str) -> int:
        """Length of the longest end of the text that some stop string begins with."""
        # One less than the longest stop: the whole of it would have been found.
        for length in range(min(self._longest_stop - 1, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._request.stop):
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


class _Decoding:
    """Tokens to text, a few at a time. text: what no later token changes; likely: what comes next, if none follows.

    A token's text may depend on the one before it (a space at the very beginning is dropped), so new ones are decoded
    together with the last that became text. Of tokens that are bytes (Llama 2, Gemma) nothing is final before another
    kind of token: one byte too many makes all of them U+FFFD.
    """

    def __init__(self, text: AnswerText) -> None:
        self._text = text
        self._before: list[int] = []  # tokens of the last text that became final
        self._known = ""  # what they are alone
        self._pending: list[int] = []
        self.text = ""
        self.likely = ""

    def add(self, token: int) -> None:
        self._pending.append(token)
        name: str | None = self._text.tokenizer.convert_ids_to_tokens(token)
        # A skipped token leaves no text, so bytes on both sides of it may be one character: nothing is settled here.
        if name is None or token in self._text.skipped:
            return
        new = self._new()
        # U+FFFD at the end: a character of several bytes is not complete. A byte token: the next one may change it.
        if new is None or new.endswith(_REPLACED) or _BYTE.fullmatch(name):
            self.likely = (new or "").rstrip(_REPLACED)
        elif new:
            self._settle(new)

    def end(self) -> None:
        """No token follows."""
        new = self._new()
        self._settle(self._text.of(self._pending) if new is None else new)

    def _new(self) -> str | None:
        """What the pending tokens add; None where they would change what is final, which no known decoder does."""
        whole = self._text.of([*self._before, *self._pending])
        return whole[len(self._known) :] if whole.startswith(self._known) else None

    def _settle(self, new: str) -> None:
        self.text += new
        self.likely = ""
        self._before, self._pending = self._pending, []
        self._known = self._text.of(self._before)
