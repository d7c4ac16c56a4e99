"""What the student asks of an engine, whichever it is: hold versions, and generate from a named one.

A version is an immutable name; nothing is ever reloaded under a name that is taken.

A static engine is used from one thread: `load` and `unload` come between calls of `generate`, never during one. Of a
`continuous` engine `generate` may be called from many threads at once, and `load` and `unload` come at any time, except
for a version that is in use.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from shared.contracts.messages import ChatMessage, Sampling
from shared.errors import OpcodError, UnavailableError


class UnknownVersionError(OpcodError):
    """A request names a version that this engine does not hold; load it first."""


class VersionTakenError(OpcodError):
    """Another set of tensors is already loaded under this version's name."""


class PromptTooLongError(OpcodError):
    """A prompt and its max_tokens exceed the positions that the model has."""


class RefusedError(OpcodError):
    """The engine says that a request is wrong; asked again, it would say so again."""


class NotFiniteError(OpcodError):
    """The model's numbers for a request are not finite: what was drawn from them would mean nothing."""

    def __init__(self, version: str) -> None:
        super().__init__(
            f"expected numbers of {version}, got logits that are NaN or infinite, which make no answer: its weights "
            "are damaged, or outgrow their dtype; ask another version, or serve it with dtype = float32"
        )


class GenerationCancelledError(OpcodError):
    """The caller asked to stop; nothing of the batch is returned."""


class EngineAwayError(UnavailableError):
    """The engine was lost on the way; it comes back, and the same requests may be made again then."""


@dataclass(frozen=True)
class TokenChoice:
    """A token that could stand at one place. `data`: its bytes, which need not be whole characters."""

    data: bytes
    logprob: float


@dataclass(frozen=True)
class TokenDetail:
    """The token that was drawn at one place, and the most probable ones there, best first."""

    drawn: TokenChoice
    top: tuple[TokenChoice, ...]


@dataclass(frozen=True)
class Piece:
    """More of one sample. The pieces' texts and details, one after the other, are those of its `Generation`."""

    text: str
    details: tuple[TokenDetail, ...] = ()


Unwanted = Callable[[], OpcodError | None]
"""Asked again and again while something is waited for: why nobody wants it any more, or None."""


class Audience(Protocol):
    """Whoever waits for one sample and may read along."""

    @property
    def gone(self) -> bool:
        """Nobody wants the sample any more."""

    @property
    def heard(self) -> bool:
        """Something of the sample was passed on: it must not be drawn again from the start."""

    def tell(self, piece: Piece) -> None:
        """More of the sample, which will not change any more; called on a thread of the engine's."""


@dataclass(frozen=True)
class GenerationRequest:
    """One sample to draw. The seed alone decides its random draws, whatever shares its batch.

    top_logprobs: tell each token's details with so many alternatives; None: no details.
    prompt: what is gone on with, in place of messages: a text, of which nothing becomes a special token, or ids.
    echo: tell the details of the prompt's tokens, too, and of every token that was drawn. Engines that cannot raise
    RefusedError.
    json_schema: what the text must fit, as JSON; only for an engine that `guides`.
    fills_context: nobody named its max_tokens, so where a long prompt leaves fewer, those are taken.
    may_go_unanswered: too long a prompt makes an empty sample (`UNANSWERED`), and costs nothing that was asked with it;
    `work.generation` sees to it, and engines raise PromptTooLongError as for any other.
    audience: told of the sample as it comes; once it is gone the sample ends, as if its max_tokens were reached.
    """

    version: str
    messages: tuple[ChatMessage, ...]
    sampling: Sampling
    seed: int
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None
    json_schema: str | None = None
    fills_context: bool = False
    audience: Audience | None = field(default=None, compare=False)
    prompt: str | tuple[int, ...] | None = None
    echo: bool = False
    may_go_unanswered: bool = False

    @property
    def unwanted(self) -> bool:
        return self.audience is not None and self.audience.gone

    def within(self, context: int, prompt: int) -> "GenerationRequest":
        """As it runs behind a prompt of so many tokens, of at most `context` in all. Raises PromptTooLongError."""
        # A caller who named max_tokens is refused rather than given fewer.
        left = context - prompt
        if self.sampling.max_tokens <= left:
            return self
        # A prompt that fills the context has no room for even one token, and is too long however it was asked.
        if self.fills_context and left > 0:
            return replace(self, sampling=self.sampling.model_copy(update={"max_tokens": left}))
        raise PromptTooLongError(
            f"expected at most {context} tokens, the model's context; got {prompt} of prompt and max_tokens = "
            f"{self.sampling.max_tokens}: shorten either"
        )


@dataclass(frozen=True)
class Generation:
    """One sample. `token_ids` end with the eos token where it was sampled; `text` has no
    special tokens but marks of hidden reasoning (`shared.modeling.thinking.AnswerText`).

    `logprobs` (one a token, natural log) are of the distribution sampled from, after temperature and top-p;
    a greedy sample has those of temperature 1. With a stop string `text` ends before it, `token_ids` with it.
    `details`, where they were asked for, are of the tokens that `text` is made of. `prompt_details`, where the prompt
    was echoed, are of all its tokens at temperature 1; the first has NaN as its log-prob, as nothing comes before it.
    `opened`: the mark of a block of hidden reasoning that the prompt's template has begun, and in which `text` goes on.
    """

    text: str
    prompt_token_ids: list[int]
    token_ids: list[int]
    logprobs: list[float]
    finish_reason: Literal["stop", "length"]
    details: tuple[TokenDetail, ...] = ()
    prompt_details: tuple[TokenDetail, ...] = ()
    opened: str = ""

    @property
    def judged(self) -> str:
        """The text for whoever judges it without its prompt, and would take cut thoughts for what was said."""
        return self.opened + self.text


UNANSWERED = Generation("", [], [], [], "length")
"""Of a request whose prompt left no room: a sample without a token, where any other has one."""


class EngineState(StrEnum):
    """READY answers; SUSPECT may be lost, and is looked at; EMPTY came back without its versions, which are to be
    loaded again; AWAY comes back; DEAD not.
    """

    READY = "ready"
    SUSPECT = "suspect"
    EMPTY = "empty"
    AWAY = "away"
    DEAD = "dead"


@dataclass(frozen=True)
class EngineHealth:
    """Whether the engine can answer; `detail` says what is wrong, or what it runs on."""

    state: EngineState
    detail: str


@runtime_checkable
class Sleeper(Protocol):
    """An engine that frees its GPU's memory while another process works there, and is the same afterwards."""

    def sleep(self) -> None:
        """Only while nothing runs. What it holds goes to the host, and comes back with `wake`. Raises
        EngineAwayError."""

    def wake(self) -> None:
        """Before anything is asked of it again. Raises EngineAwayError where it is lost, and has to be begun anew."""


class Engine(Protocol):
    """One model with any number of versions of its weights, held side by side."""

    @property
    def continuous(self) -> bool:
        """Whether requests may join while others run; else a batch runs to its end."""

    @property
    def slots(self) -> int:
        """How many sequences it can work on at once."""

    @property
    def finished(self) -> int:
        """Of the calls under way that nobody listens to, the sequences whose place others may have; 0 where not known.

        May be asked on any thread.
        """

    @property
    def context(self) -> int | None:
        """Tokens that a prompt and its answer may have together; None: no limit."""

    @property
    def vocabulary_size(self) -> int: ...

    @property
    def rendering(self) -> str | None:
        """`rendering_of` its tokenizer, to be compared with the trainer's; None for an engine without one."""

    @property
    def guides(self) -> bool:
        """Whether it can keep a text to a JSON schema while it draws."""

    @property
    def hashes(self) -> bool:
        """Whether `load` makes a checksum of what it holds then, and refuses what has another than it is told."""

    def load(self, version: str, directory: Path | None, checksum: str | None = None) -> str:
        """Hold `version` from its directory (None: the base model); return the checksum of the tensors loaded.

        checksum: that of its tensors in their manifest. One that `hashes` refuses others (ModelError); for another one,
        whose tensors another process reads, the hash of each file was found to be the manifest's, and it takes the
        checksum as it is, so that nothing is hashed twice.
        Loading again what is loaded returns the same. Raises ModelError for unusable files, VersionTakenError where
        the name holds other tensors.
        """

    def unload(self, version: str) -> None:
        """Forget `version`. Raises UnknownVersionError."""

    def versions(self) -> dict[str, str]:
        """Checksum by version, of all that are held."""

    def generate(
        self, requests: Sequence[GenerationRequest], cancelled: threading.Event | None = None
    ) -> list[Generation]:
        """Return one generation a request, in order; more requests than slots are run in turns.

        Raises UnknownVersionError before anything runs, GenerationCancelledError soon after `cancelled` is set.
        """

    def health(self) -> EngineHealth: ...

    def prompt_tokens(self, messages: Sequence[ChatMessage]) -> int:
        """How many tokens these messages are as a prompt."""

    def probe(self, version: str, expected: Sequence[float]) -> tuple[float, ...] | None:
        """The mean log-prob a token of each of PROBE_TEXTS (shared.modeling.logprobs), as manifests have it.

        None where `load`, or an earlier probe, has seen to it that these are the weights. expected: the manifest's;
        empty where it has none. Raises ModelError where these were to differ from the base model's and do not.
        """

    def close(self) -> None:
        """End what the engine started."""
