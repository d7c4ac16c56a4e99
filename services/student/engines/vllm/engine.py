"""The engine port over a stock vLLM server (docs/engines.md).

What always holds: prompts are rendered and tokenised here, so that trainer and engine see the same ids; a version is
an adapter whose bytes were checked before vLLM is told of its directory, under a name that holds its checksum; and
requests of a life of the server that is over raise EngineAwayError, so that none is answered by other weights.
"""

import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import structlog
from transformers import PreTrainedTokenizerBase

from services.student.engines.port import (
    EngineAwayError,
    EngineHealth,
    EngineState,
    Generation,
    GenerationCancelledError,
    GenerationRequest,
    PromptTooLongError,
    UnknownVersionError,
    VersionTakenError,
)
from services.student.engines.tokens import TokenTable
from services.student.engines.vllm.client import Call, RefusedError
from services.student.engines.vllm.health import Condition
from services.student.engines.vllm.requests import Reading, completion, probe_answer, probe_question
from services.student.engines.vllm.server import Life, Server, base_of, gone
from shared.contracts.messages import ChatMessage
from shared.errors import ModelError, OpcodError
from shared.modeling.adapters import CONFIG_FILE, checksum, load_adapter
from shared.modeling.chat import encode, render, rendering_of
from shared.modeling.checksums import file_checksum
from shared.modeling.logprobs import PROBE_TEXTS
from shared.modeling.stopping import eos_ids, generation_config

_STATES = {
    Condition.HEALTHY: EngineState.READY,
    Condition.SUSPECT: EngineState.SUSPECT,
    Condition.STALE: EngineState.EMPTY,
    Condition.FAILED: EngineState.DEAD,
}
_IN_DOUBT = {EngineState.READY: EngineState.SUSPECT, EngineState.EMPTY: EngineState.AWAY}

log = structlog.get_logger()


class VllmEngine:
    """See `port.Engine`. `server` is started here and stopped by `close`."""

    continuous = True
    guides = True

    def __init__(
        self,
        server: Server,
        model_dir: Path,
        tokenizer: PreTrainedTokenizerBase,
        vocabulary_size: int,
        slots: int,
    ) -> None:
        self.slots = slots
        self.vocabulary_size = vocabulary_size
        self.server = server
        self._tokenizer = tokenizer
        self._table = TokenTable(tokenizer)
        self.rendering = rendering_of(tokenizer)
        self._eos = eos_ids(generation_config(model_dir), tokenizer)
        self._base_checksum = file_checksum(*sorted(model_dir.glob("*.safetensors")))
        self._checksums: dict[str, str] = {}
        self._probed_life = 0
        self._version = server.start()
        (base, limit) = self._base(server.life)
        self._base_name, self._limit = base, limit
        log.info("vllm answers", vllm=self._version, url=server.life.client.url, max_model_len=limit)

    def load(self, version: str, directory: Path | None) -> str:
        life = self.server.life
        found = self._base_checksum if directory is None else _checked(directory)
        known = self._checksums.get(version, found)
        if known != found:
            raise VersionTakenError(
                f"{version} is loaded with checksum {known}, and {directory} holds {found}: "
                "a version's files never change; give the new weights a new name"
            )
        if version not in self.server.held:
            name = self._base_name if directory is None else f"{version}-{found[:16]}"
            if directory is not None:
                self._load_at_server(life, name, directory.resolve())
            self.server.loaded(version, name, life)
            self._checksums[version] = found
        return found

    def unload(self, version: str) -> None:
        if self._checksums.pop(version, None) is None:
            raise UnknownVersionError(f"expected a version that is loaded, got {version}")
        name = self.server.unloaded(version)
        if name is not None and name != self._base_name:
            with suppress(RefusedError, EngineAwayError):  # a server that has lost it needs no telling
                self.server.life.client.unload(name)

    def versions(self) -> dict[str, str]:
        return {version: self._checksums[version] for version in self.server.held}

    def generate(
        self, requests: Sequence[GenerationRequest], cancelled: threading.Event | None = None
    ) -> list[Generation]:
        life = self.server.life
        prompts = [self._prompt(request) for request in requests]
        readings = [Reading(self._tokenizer, self._table, request) for request in requests]
        calls = [
            Call(
                completion(request, self._name(request.version), prompt, self._eos),
                reading.hear if request.audience is not None else None,
            )
            for request, prompt, reading in zip(requests, prompts, readings, strict=True)
        ]

        def unwanted() -> OpcodError | None:
            if cancelled is not None and cancelled.is_set():
                return GenerationCancelledError(f"{len(calls)} samples were stopped before they were complete")
            return gone(life, self.server)

        try:
            choices = life.client.complete(calls, unwanted)
        except EngineAwayError:
            self.server.look()
            raise
        answers = zip(readings, prompts, choices, strict=True)
        return [reading.generation(prompt, choice) for reading, prompt, choice in answers]

    def health(self) -> EngineHealth:
        in_doubt, condition = self.server.in_doubt, self.server.health.condition
        state = _STATES.get(condition, EngineState.AWAY)
        if in_doubt:
            state = _IN_DOUBT.get(state, state)
        return EngineHealth(state, f"vLLM {self._version}: {condition.value}")

    def prompt_tokens(self, messages: Sequence[ChatMessage]) -> int:
        return len(render(self._tokenizer, messages))

    def probe(self, version: str) -> tuple[float, ...] | None:
        """Once in each life of the server: the base model under the adapters stays the same in it."""
        life = self.server.life
        if life.number == self._probed_life:
            return None
        texts = [encode(self._tokenizer, text) for text in PROBE_TEXTS]
        choices = life.client.choices(probe_question(self._name(version), texts))
        try:
            found = probe_answer(texts, choices)
        except ValueError as error:
            raise ModelError(f"vLLM does not answer the probe: {error}") from error
        self._probed_life = life.number
        return found

    def close(self) -> None:
        self.server.stop()

    def _load_at_server(self, life: Life, name: str, directory: Path) -> None:
        """Raises ModelError where the server refuses it; a name that it holds already stands for the same bytes."""
        try:
            life.client.load(name, directory)
        except RefusedError as refused:
            if name not in {model.id for model in life.client.models()}:
                raise ModelError(f"vLLM does not take the adapter in {directory}: {refused}") from refused

    def _base(self, life: Life) -> tuple[str, int]:
        """Name and longest sequence of the base model at the server."""
        models = [model for model in life.client.models() if model.parent is None]
        name = base_of([model.id for model in models])
        limit = models[0].max_model_len
        if limit is None:
            raise ModelError(f"expected vLLM to say how long a sequence of {name} may be, it says nothing")
        return name, limit

    def _name(self, version: str) -> str:
        held = self.server.held
        if version not in held and version in self._checksums:
            raise EngineAwayError(f"vLLM was lost, and with it {version}: it is loaded again first")
        if version not in held:
            there = ", ".join(held) or "none"
            raise UnknownVersionError(f"expected a version that is loaded ({there}), got {version}: load it first")
        return held[version]

    def _prompt(self, request: GenerationRequest) -> list[int]:
        prompt = render(self._tokenizer, request.messages)
        if len(prompt) + request.sampling.max_tokens > self._limit:
            raise PromptTooLongError(
                f"expected at most {self._limit} tokens, got {len(prompt)} of prompt and max_tokens = "
                f"{request.sampling.max_tokens}: shorten either"
            )
        return prompt


def _checked(directory: Path) -> str:
    """The checksum of an adapter that is complete and finite. Raises ModelError."""
    if not (directory / CONFIG_FILE).is_file():
        raise ModelError(f"the vllm engine serves adapters; expected {CONFIG_FILE} in {directory}")
    tensors, _ = load_adapter(directory)
    return checksum(tensors)
