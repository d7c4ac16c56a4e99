"""The engine port over a stock vLLM server (docs/engines.md).

What always holds: prompts are rendered and tokenised here, so that trainer and engine see the same ids; a version's
bytes were checked before vLLM is told of its directory (weights.py); and requests of a life of the server that is over
raise EngineAwayError, so that none is answered by other weights.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from transformers import PreTrainedTokenizerBase

from services.student.engines.port import (
    EngineAwayError,
    EngineHealth,
    EngineState,
    Generation,
    GenerationCancelledError,
    GenerationRequest,
    NotFiniteError,
    RefusedError,
    UnknownVersionError,
    Unwanted,
    VersionTakenError,
)
from services.student.engines.tokens import TokenTable, prompt_ids
from services.student.engines.vllm.client import Call, NoNumberError
from services.student.engines.vllm.health import Condition
from services.student.engines.vllm.requests import (
    Reading,
    completion,
    drawing_question,
    of_the_drawing,
    probe_answer,
    probe_question,
)
from services.student.engines.vllm.server import Life, Server, base_of, gone
from services.student.engines.vllm.weights import Weights
from shared.contracts.messages import ChatMessage
from shared.errors import ConfigError, ModelError, OpcodError
from shared.modeling.chat import encode, render, rendering_of
from shared.modeling.loading import eos_ids, generation_config
from shared.modeling.logprobs import PROBE_TEXTS
from shared.modeling.thinking import AnswerText

_STATES = {
    Condition.HEALTHY: EngineState.READY,
    Condition.SUSPECT: EngineState.SUSPECT,
    Condition.STALE: EngineState.EMPTY,
    Condition.FAILED: EngineState.DEAD,
}
_IN_DOUBT = {EngineState.READY: EngineState.SUSPECT, EngineState.EMPTY: EngineState.AWAY}

EFFECT_NATS = 0.3
"""Mean difference a token of a probe text; rounding is below 0.1, so half of it tells an adapter from none."""

log = structlog.get_logger()


@dataclass(frozen=True)
class _Sample:
    """One on its way: the body of its request, its prompt's ids, and who reads the answer."""

    body: Mapping[str, Any]
    prompt: list[int]
    reading: Reading

    def call(self, besides: Mapping[str, str]) -> Call:
        return Call({**self.body, **besides}, self.reading.hear if self.reading.streamed else None)


class VllmEngine:
    """See `port.Engine`. `server` is started here and stopped by `close`."""

    continuous = True
    guides = True
    hashes = False
    finished = 0

    def __init__(
        self,
        server: Server,
        weights: Weights,
        model_dir: Path,
        tokenizer: PreTrainedTokenizerBase,
        vocabulary_size: int,
        slots: int,
    ) -> None:
        self.slots = slots
        self.vocabulary_size = vocabulary_size
        self.server = server
        self._weights = weights
        self._tokenizer = tokenizer
        self._text = AnswerText(tokenizer)
        self._table = TokenTable(tokenizer)
        self.rendering = rendering_of(tokenizer)
        self._eos = eos_ids(generation_config(model_dir), tokenizer)
        self._checksums: dict[str, str] = {}
        self._probed_life = 0
        self._base_said: tuple[float, ...] = ()
        self._shown = False
        self.version = server.start()
        try:
            self._base_name, self.context = self._base(server.life)
            # Of ours the command line says it.
            if server.life.process is None:
                self._require_log_probs_of_the_drawing(server.life)
        except OpcodError:
            server.stop()
            raise
        log.info("vllm answers", vllm=self.version, url=server.life.client.url, max_model_len=self.context)

    def load(self, version: str, directory: Path | None, checksum: str | None = None) -> str:
        # The life is taken before anything is read or sent: `loaded` refuses the version if it is over by then.
        life = self.server.life
        files = self._weights.check(directory, checksum)
        found = files.checksum
        known = self._checksums.get(version, found)
        if known != found:
            raise VersionTakenError(
                f"{version} is loaded with checksum {known}, and {directory} holds {found}: "
                "a version's files never change; give the new weights a new name"
            )
        if version not in self.server.held:
            name = self._weights.load(life, version, files) or self._base_name
            self.server.loaded(version, name, life)
            self._checksums[version] = found
        return found

    def sleep(self) -> None:
        try:
            self.server.sleep()
        except RefusedError as error:
            raise EngineAwayError(f"vLLM does not sleep: {error}") from error

    def wake(self) -> None:
        try:
            self.server.wake()
        except RefusedError as error:
            raise EngineAwayError(f"vLLM does not wake: {error}") from error

    def unload(self, version: str) -> None:
        if self._checksums.pop(version, None) is None:
            raise UnknownVersionError(f"expected a version that is loaded, got {version}")
        name = self.server.unloaded(version)
        self._weights.unload(self.server.life, version, name if name != self._base_name else None)

    def versions(self) -> dict[str, str]:
        return {version: self._checksums[version] for version in self.server.held}

    def generate(
        self, requests: Sequence[GenerationRequest], cancelled: threading.Event | None = None
    ) -> list[Generation]:
        # One life for the whole call: after a restart the same name could stand for other weights.
        life = self.server.life
        samples = [self._sample(request) for request in requests]

        def unwanted() -> OpcodError | None:
            if cancelled is not None and cancelled.is_set():
                return GenerationCancelledError(f"{len(samples)} samples were stopped before they were complete")
            return gone(life, self.server)

        found: dict[int, Generation] = {}
        for group in self._weights.together([request.version for request in requests]):
            version = requests[group[0]].version
            found |= zip(group, self._complete(life, version, [samples[i] for i in group], unwanted), strict=True)
        return [found[place] for place in range(len(requests))]

    def health(self) -> EngineHealth:
        # `in_doubt` first: a look that ends between the two reads has then already changed the condition.
        in_doubt, condition = self.server.in_doubt, self.server.health.condition
        state = _STATES.get(condition, EngineState.AWAY)
        if in_doubt:
            state = _IN_DOUBT.get(state, state)
        return EngineHealth(state, f"vLLM {self.version}: {condition.value}")

    def prompt_tokens(self, messages: Sequence[ChatMessage]) -> int:
        return len(render(self._tokenizer, messages))

    def probe(self, version: str, expected: Sequence[float]) -> tuple[float, ...] | None:
        """Where the base model stays the same in a life of the server, once in each, and of one version more: the first
        that is expected to differ from the base model so much that it can be seen. Raises ModelError where it does not.
        """
        life = self.server.life
        new = life.number != self._probed_life
        if not self._weights.base_stays:
            return self._asked(life, version, self._name(version))
        if not new and not self._shows(expected):
            return None
        found = self._asked(life, version, self._name(version))
        if new:
            self._base_said, self._shown = self._asked(life, version, self._base_name), False
            self._probed_life = life.number
        if self._shows(expected):
            self._require_effect(version, expected, found)
            self._shown = True
        return found

    def close(self) -> None:
        self.server.stop()

    def _asked(self, life: Life, version: str, name: str) -> tuple[float, ...]:
        """What the server says of the probe's texts with the weights that it has under `name`."""
        texts = [encode(self._tokenizer, text) for text in PROBE_TEXTS]
        try:
            with self._weights.serving(life, version, lambda: gone(life, self.server)) as besides:
                choices = life.client.choices({**probe_question(name, texts), **besides})
        except NoNumberError as error:
            raise NotFiniteError(version) from error
        return probe_answer(texts, choices)

    def _shows(self, expected: Sequence[float]) -> bool:
        """Whether a version that is expected to say this is the first to differ from the base model."""
        return not self._shown and any(
            abs(one - base) >= EFFECT_NATS for one, base in zip(expected, self._base_said, strict=False)
        )

    def _require_effect(self, version: str, expected: Sequence[float], found: Sequence[float]) -> None:
        differs = max(range(len(expected)), key=lambda text: abs(expected[text] - self._base_said[text]))
        own, base = (abs(found[differs] - said[differs]) for said in (expected, self._base_said))
        # `not <`, as a NaN is to be refused, too.
        if not own < base:
            raise ModelError(
                f"the engine gives a probe text a mean log-prob of {found[differs]} with {version} and of "
                f"{self._base_said[differs]} without, the trainer's model gave it {expected[differs]}: does the engine "
                "have another model, or does it not find the layers of this adapter?"
            )

    def _sample(self, request: GenerationRequest) -> _Sample:
        if request.echo:
            # With adapters on, vLLM 0.32 on a CPU dies of `prompt_logprobs`.
            raise RefusedError(
                "echo: students on vLLM do not score a prompt; export the version and ask a vLLM server of your own "
                "(docs/clients.md)"
            )
        prompt = prompt_ids(self._tokenizer, request, self.vocabulary_size)
        request = request.within(self.context, len(prompt))
        reading = Reading(self._text, self._table, request)
        return _Sample(completion(request, self._name(request.version), prompt, self._eos), prompt, reading)

    def _complete(self, life: Life, version: str, samples: Sequence[_Sample], unwanted: Unwanted) -> list[Generation]:
        """Those that may run at once."""
        try:
            with self._weights.serving(life, version, unwanted) as besides:
                lost = self.server.losing()
                calls = [sample.call(besides) for sample in samples]
                choices = life.client.complete(calls, lambda: unwanted() or lost())
        except NoNumberError as error:
            raise NotFiniteError(version) from error
        except EngineAwayError:
            self.server.look()
            raise
        return [one.reading.generation(one.prompt, choice) for one, choice in zip(samples, choices, strict=True)]

    def _base(self, life: Life) -> tuple[str, int]:
        """Name and longest sequence of the base model at the server."""
        models = [model for model in life.client.models() if model.parent is None]
        name = base_of([model.id for model in models])
        limit = models[0].max_model_len
        if limit is None:
            raise ModelError(f"expected vLLM to say how long a sequence of {name} may be, it says nothing")
        return name, limit

    def _require_log_probs_of_the_drawing(self, life: Life) -> None:
        texts = [encode(self._tokenizer, text) for text in PROBE_TEXTS]
        if not of_the_drawing(life.client.choices(drawing_question(self._base_name, texts))):
            raise ConfigError(
                f"expected log-probs after temperature and top-p from vLLM at {life.client.url}, got the model's own: "
                "start it with --logprobs-mode processed_logprobs"
            )

    def _name(self, version: str) -> str:
        held = self.server.held
        # Known and not held: the server came back without it. It is loaded again, so this is no fault of the request.
        if version not in held and version in self._checksums:
            raise EngineAwayError(f"vLLM was lost, and with it {version}: it is loaded again first")
        if version not in held:
            there = ", ".join(held) or "none"
            raise UnknownVersionError(f"expected a version that is loaded ({there}), got {version}: load it first")
        return held[version]
