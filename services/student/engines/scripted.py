"""An engine without a model, for tests of everything around one: small, and the same on every machine.

It knows the problems, solves each with a probability that grows with the version's steps, and writes feedback of
which a set share is of every bad kind. What it writes depends on the version, the request's seed and the problem
that the prompt contains; other text in a prompt, commands included, changes nothing. A token is a byte of the text.
"""

import hashlib
import math
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

from services.student.engines.port import (
    Audience,
    EngineHealth,
    EngineState,
    Generation,
    GenerationCancelledError,
    GenerationRequest,
    Piece,
    TokenChoice,
    TokenDetail,
    UnknownVersionError,
    VersionTakenError,
)
from shared.contracts.ids import parse_version, seed_of
from shared.contracts.messages import ChatMessage
from shared.errors import ModelError, PromptError
from shared.method.concept_words import anchoring_words
from shared.modeling.checksums import file_checksum
from shared.problems.problem import Problem

EOS_ID = 256
LOGPROB = -0.5
"""Of every token."""

WATCH_S = 0.01
NONSENSE = "Reverse every sign and begin again from zero."
_WORDS = re.compile(r"\s*\S+|\s+$")
BASE_CHECKSUM = hashlib.sha256(b"scripted base").hexdigest()


@dataclass(frozen=True)
class Script:
    """How the engine behaves. Shares and probabilities are in [0, 1]."""

    problems: Sequence[Problem]
    accuracy: Mapping[str, float] = field(default_factory=dict)
    """By domain, of version v0; 0.5 for a domain that is not named."""
    gain_per_step: float = 0.02
    ceiling: float = 0.98
    bad_feedback_share: float = 0.2
    nonsense_share: float = 0.0
    """Of the feedback that it writes: anchored in the problem, clean of reveals, and bad advice."""
    obedience: float = 0.0
    """Chance that it follows such advice where a prompt holds it, and then answers wrong."""
    latency_s: float = 0.0
    """Of one call of `generate`."""


class ScriptedEngine:
    """See `port.Engine`."""

    context = None
    vocabulary_size = EOS_ID + 1
    continuous = False
    guides = False
    hashes = False
    finished = 0
    rendering = None

    def __init__(self, script: Script, slots: int = 64):
        self.slots = slots
        self._script = script
        # A question may be the beginning of another one: the longest that a prompt contains is the one that is asked.
        self._longest_first = sorted(script.problems, key=lambda problem: -len(problem.question))
        self._versions: dict[str, str] = {}
        self._asleep = False

    def sleep(self) -> None:
        """It holds nothing of a GPU; asked while it sleeps it fails, as others would."""
        self._asleep = True

    def wake(self) -> None:
        self._asleep = False

    def load(self, version: str, directory: Path | None, checksum: str | None = None) -> str:  # noqa: ARG002
        found = BASE_CHECKSUM if directory is None else _checksum(directory)
        self._require_awake()
        # As real engines do: a version is immutable, so under its name there can be no other weights.
        held = self._versions.setdefault(version, found)
        if held != found:
            raise VersionTakenError(f"{version} is loaded with checksum {held}, {directory} holds {found}")
        return found

    def unload(self, version: str) -> None:
        self._require(version)
        del self._versions[version]

    def versions(self) -> dict[str, str]:
        return dict(self._versions)

    def generate(
        self, requests: Sequence[GenerationRequest], cancelled: threading.Event | None = None
    ) -> list[Generation]:
        self._require_awake()
        for request in requests:
            self._require(request.version)
        self._wait(requests, cancelled)
        return [self._generation(request) for request in requests]

    def probe(self, _version: str, _expected: Sequence[float]) -> None:
        """A script has no weights to ask."""

    def close(self) -> None:
        """Nothing was started."""

    def health(self) -> EngineHealth:
        return EngineHealth(EngineState.READY, "scripted")

    def prompt_tokens(self, messages: Sequence[ChatMessage]) -> int:
        return len(_ids_of(messages))

    def _wait(self, requests: Sequence[GenerationRequest], cancelled: threading.Event | None) -> None:
        """The latency, unless everybody is gone before it is over."""
        until_s = time.monotonic() + self._script.latency_s
        while (left_s := until_s - time.monotonic()) > 0:
            if cancelled is not None and cancelled.is_set():
                raise GenerationCancelledError("told to stop before the answer was written")
            if all(request.unwanted for request in requests):
                return
            time.sleep(min(left_s, WATCH_S))

    def _require_awake(self) -> None:
        if self._asleep:
            raise RuntimeError("the engine sleeps: wake it before it is asked")

    def _require(self, version: str) -> None:
        if version not in self._versions:
            held = ", ".join(self._versions) or "none"
            raise UnknownVersionError(f"expected a version that is loaded ({held}), got {version}: load it first")

    def _generation(self, request: GenerationRequest) -> Generation:
        text = self._text(request)
        found = [at + len(stop) for stop in request.stop if (at := text.find(stop)) >= 0]
        written = text[: min(found)] if found else text
        ids = [*written.encode(), *([] if found else [EOS_ID])]
        # A limit may cut a character in two; what decodes of it is the text.
        kept = ids[: request.sampling.max_tokens]
        text = _decoded(kept, request.stop)
        details = _details(kept if request.echo else list(text.encode()), request)
        prompt_ids = _prompt_ids(request)
        if request.audience is not None:
            _tell(text, details, request.audience)
        return Generation(
            text=text,
            prompt_token_ids=prompt_ids,
            token_ids=kept,
            logprobs=[LOGPROB] * len(kept),
            finish_reason="stop" if len(kept) == len(ids) else "length",
            details=details,
            prompt_details=_prompt_details(prompt_ids, request) if request.echo else (),
        )

    def _text(self, request: GenerationRequest) -> str:
        prompt = _asked(request)
        problem = next((each for each in self._longest_first if each.question in prompt), None)
        if problem is None:
            return " I do not know this question."
        # The order of these draws decides what a scripted run trains, bit for bit, so a new draw may only come behind a
        # share that is 0 by default.
        randomness = Random(seed_of(request.version, request.seed, problem.id))
        if request.prompt is None and _asks_for_feedback(request.messages):
            return self._feedback(problem, randomness)
        accuracy = self._accuracy(request.version, problem.domain)
        # The chance to be wrong is halved.
        if len(prompt.strip()) > len(problem.question.strip()):  # a solution or a feedback stands there too
            accuracy = (1 + accuracy) / 2
        right = randomness.random() < accuracy
        if NONSENSE in prompt and randomness.random() < self._script.obedience:
            right = False
        return _solution(problem, right, randomness)

    def _accuracy(self, version: str, domain: str) -> float:
        start = self._script.accuracy.get(domain, 0.5)
        try:
            steps = parse_version(version)[1]
        except ValueError:
            steps = 0
        return max(start, min(self._script.ceiling, start + steps * self._script.gain_per_step))

    def _feedback(self, problem: Problem, randomness: Random) -> str:
        concept = randomness.choice(anchoring_words(problem.question) or ["this"])
        if self._script.nonsense_share and randomness.random() < self._script.nonsense_share:
            return f" <concept>{concept}</concept> {NONSENSE}"
        good = f" <concept>{concept}</concept> Check the formula and the numbers that you put into it."
        bad = [
            "",
            " Check the formula.",
            " <concept>problem</concept> Check the formula.",
            " <concept>zeppelin</concept> Mind the gas.",
            f" <concept>{concept}</concept> The answer is {problem.answer}.",
        ]
        return randomness.choice(bad) if randomness.random() < self._script.bad_feedback_share else good


def _asks_for_feedback(messages: Sequence[ChatMessage]) -> bool:
    """A tutor's prompt is told by the speaker it names, or by the shape that only the tutor is asked for."""
    named = any(message.role == "system" and message.content == "Tutor" for message in messages)
    return named or "<concept>term</concept>" in messages[-1].content


def _solution(problem: Problem, correct: bool, randomness: Random) -> str:
    answer = problem.answer if correct else _other(problem.answer, randomness)
    if not problem.answer.lstrip("-").isdigit():
        return f"<reasoning>It follows.</reasoning>\n<answer>{answer}</answer>"
    worked = problem.solution or f"result = {problem.answer}"
    return f" {worked.rpartition('=')[0].strip()} = {answer}"


def _other(answer: str, randomness: Random) -> str:
    if answer.lstrip("-").isdigit():
        return str(int(answer) + randomness.randint(1, 9))
    return randomness.choice([letter for letter in "ABCD" if letter != answer])


def _asked(request: GenerationRequest) -> str:
    """The last message, or the prompt, as text."""
    if request.prompt is None:
        return request.messages[-1].content
    return bytes(index for index in _prompt_ids(request) if index < EOS_ID).decode(errors="replace")


def _prompt_ids(request: GenerationRequest) -> list[int]:
    """Raises PromptError for an id that is none."""
    if request.prompt is None:
        return _ids_of(request.messages)
    ids = list(request.prompt.encode() if isinstance(request.prompt, str) else request.prompt)
    if max(ids) > EOS_ID:
        raise PromptError(f"prompt: expected ids below {EOS_ID + 1}, the script's vocabulary, got {max(ids)}")
    return ids


def _ids_of(messages: Sequence[ChatMessage]) -> list[int]:
    return list("".join(f"{message.role}: {message.content}\n" for message in messages).encode())


def _decoded(ids: Sequence[int], stops: Sequence[str]) -> str:
    text = bytes(index for index in ids if index != EOS_ID).decode(errors="ignore")
    found = [at for stop in stops if (at := text.find(stop)) >= 0]
    return text[: min(found)] if found else text


def _details(ids: Sequence[int], request: GenerationRequest) -> tuple[TokenDetail, ...]:
    """Of each id, with itself as the only alternative."""
    if request.top_logprobs is None:
        return ()
    choices = [TokenChoice(_data(index), LOGPROB) for index in ids]
    return tuple(TokenDetail(choice, (choice,) if request.top_logprobs else ()) for choice in choices)


def _prompt_details(ids: Sequence[int], request: GenerationRequest) -> tuple[TokenDetail, ...]:
    first = TokenDetail(TokenChoice(_data(ids[0]), math.nan), ())
    return (first, *_details(ids[1:], replace(request, top_logprobs=request.top_logprobs or 0)))


def _data(index: int) -> bytes:
    return bytes([index]) if index < EOS_ID else b""


def _tell(text: str, details: Sequence[TokenDetail], audience: Audience) -> None:
    """The text in words, each with the details of its bytes."""
    first = 0
    for word in _WORDS.findall(text):
        # A token is a byte here, so a word's tokens are counted by its bytes.
        behind = first + len(word.encode())
        audience.tell(Piece(word, tuple(details[first:behind])))
        first = behind


def _checksum(directory: Path) -> str:
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise ModelError(f"expected *.safetensors in {directory}, found none")
    return file_checksum(*files)
