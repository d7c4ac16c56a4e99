"""The engine inside the student's process: Hugging Face transformers on CPU or one GPU.

Versions live side by side as the weights they change, merged in fp32 once when they are loaded; a decoding step of one
version runs on exactly those weights, with the rest shared. Applying LoRA in every step instead was measured at
2.4 times the step. The model is the decoding loop's: no other thread points it at weights or runs it.
"""

import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from services.student.engines.active import ActiveModel, Weights
from services.student.engines.decoding import Decoder, Draw
from services.student.engines.loop import DecodingLoop
from services.student.engines.port import (
    EngineAwayError,
    EngineHealth,
    EngineState,
    Generation,
    GenerationRequest,
    UnknownVersionError,
    VersionTakenError,
)
from services.student.engines.tokens import prompt_ids
from services.student.engines.transcript import Transcript
from shared.contracts.messages import ChatMessage
from shared.errors import ModelError, reason
from shared.modeling.adapters import CONFIG_FILE, checksum, load_adapter, merged_parameters
from shared.modeling.allocator import ran_out, release_freed
from shared.modeling.attention import require_plain
from shared.modeling.chat import render, rendering_of
from shared.modeling.checksums import file_checksum
from shared.modeling.loading import Dtype, eos_ids, load_model, load_tokenizer
from shared.modeling.thinking import AnswerText
from shared.modeling.versions import load_full, require_tensors_of

STUCK_S = 600.0
"""Longest that a turn of the loop may take; a long prompt on a CPU is read within it."""

LOAD_ATTEMPTS = 2


@dataclass(frozen=True)
class _Version:
    """The weights that differ from the base model's, and the identity of the files they came from."""

    checksum: str
    weights: Weights


class TransformersEngine:
    """See `port.Engine`. `threads` is for the whole process and must not exceed the cores it may use."""

    continuous = True
    guides = False
    hashes = True

    def __init__(
        self,
        model_dir: Path,
        chat_template: str | None,
        dtype: Dtype,
        slots: int,
        threads: int,
        device: str = "cpu",
    ):
        torch.set_num_threads(threads)
        self.slots = slots
        self._model_dir = model_dir
        self._model = load_model(model_dir, dtype, device)
        require_plain(self._model.config)
        self._active = ActiveModel(self._model)
        self._tokenizer = load_tokenizer(model_dir, chat_template)
        self.rendering = rendering_of(self._tokenizer)
        self._text = AnswerText(self._tokenizer)
        eos = eos_ids(self._model.generation_config, self._tokenizer)
        self._versions: dict[str, _Version] = {}
        self._failure: str | None = None
        self._decoder = Decoder(self._model, self._tokenizer, eos)
        self._loop = DecodingLoop(self._decoder, self._active.activate, slots)

    @property
    def finished(self) -> int:
        return self._loop.finished

    @property
    def context(self) -> int:
        return int(self._model.config.max_position_embeddings)

    @property
    def vocabulary_size(self) -> int:
        return int(self._model.config.vocab_size)

    def load(self, version: str, directory: Path | None, checksum: str | None = None) -> str:
        loaded = self._fitted(version, directory)
        if checksum is not None and loaded.checksum != checksum:
            raise ModelError(
                f"expected tensors with checksum {checksum} in {directory}, found {loaded.checksum}: they were altered "
                "after they were written; restore them or go back to an earlier version"
            )
        held = self._versions.setdefault(version, loaded)
        if held.checksum != loaded.checksum:
            raise VersionTakenError(
                f"{version} is loaded with checksum {held.checksum}, and {directory} holds {loaded.checksum}: "
                "a version's files never change; give the new weights a new name"
            )
        return held.checksum

    def unload(self, version: str) -> None:
        self._held(version)
        del self._versions[version]

    def versions(self) -> dict[str, str]:
        return {name: version.checksum for name, version in list(self._versions.items())}

    def generate(
        self, requests: Sequence[GenerationRequest], cancelled: threading.Event | None = None
    ) -> list[Generation]:
        weights = {request.version: self._held(request.version).weights for request in requests}
        prompts = [tuple(prompt_ids(self._tokenizer, request, self.vocabulary_size)) for request in requests]
        fitting = [r.within(self.context, len(prompt)) for r, prompt in zip(requests, prompts, strict=True)]

        def begin() -> list[Draw]:
            both = zip(fitting, prompts, strict=True)
            return [self._sample(index, *one) for index, one in enumerate(both)]

        return self._loop.generate(weights, begin, cancelled)

    def health(self) -> EngineHealth:
        if (failure := self._loop.failure or self._failure) is not None:
            return EngineHealth(EngineState.DEAD, failure)
        if (busy_s := self._loop.busy_s) > STUCK_S:
            return EngineHealth(EngineState.AWAY, f"stuck: a decoding step has taken {busy_s:.0f} s")
        laid_out = ", packed weights" if self._active.packed else ""
        return EngineHealth(EngineState.READY, f"transformers on {self._model.device}, {self._model.dtype}{laid_out}")

    def prompt_tokens(self, messages: Sequence[ChatMessage]) -> int:
        return len(render(self._tokenizer, messages))

    def probe(self, _version: str, _expected: Sequence[float]) -> None:
        """The tensors in memory are those of the file, by their checksum."""

    def close(self) -> None:
        self._loop.close()

    def _fitted(self, version: str, directory: Path | None) -> _Version:
        """As `_read`, once more where memory ran out: what ran meanwhile may have ended.

        Raises ModelError where it does not suffice, EngineAwayError where the GPU is lost to this process.
        """
        for attempt in range(LOAD_ATTEMPTS):
            if attempt:
                release_freed()
            try:
                return self._read(directory)
            except (MemoryError, RuntimeError) as error:
                self._require_device()
                if not ran_out(error):
                    raise
                told = reason(error)
            # Out of the handler before the next: the error holds on to what was read of the version.
        needed = sum(tensor.nbytes for tensor in self._active.base.values())
        raise ModelError(
            f"expected memory for {version}, of up to {needed} bytes beside the {len(self._versions)} that are loaded; "
            f"{told}; set fewer `slots` than {self.slots} for the student, or give it more memory"
        )

    def _require_device(self) -> None:
        try:
            self._decoder.require_device()
        except EngineAwayError as error:
            # Nothing that runs would find it out where nothing runs.
            self._failure = str(error)
            raise

    def _read(self, directory: Path | None) -> _Version:
        if directory is None:
            return _Version(file_checksum(*sorted(self._model_dir.glob("*.safetensors"))), {})
        with torch.no_grad():
            if (directory / CONFIG_FILE).is_file():
                tensors, spec = load_adapter(directory)
                return _Version(
                    checksum(tensors), self._active.weights(merged_parameters(self._active.unchanged, tensors, spec))
                )
            return self._read_full(directory)

    def _read_full(self, directory: Path) -> _Version:
        """Read a whole model's weights, which must be those of this architecture."""
        tensors = load_full(*sorted(directory.glob("*.safetensors")))
        base = self._active.base
        require_tensors_of(base, tensors, str(directory))
        like = next(iter(base.values()))
        own = self._active.weights((name, tensor.to(like)) for name, tensor in tensors.items())
        return _Version(checksum(tensors), own)

    def _held(self, version: str) -> _Version:
        if version not in self._versions:
            held = ", ".join(self._versions) or "none"
            raise UnknownVersionError(f"expected a version that is loaded ({held}), got {version}: load it first")
        return self._versions[version]

    def _sample(self, index: int, request: GenerationRequest, prompt: tuple[int, ...]) -> Draw:
        # Decoding token by token costs more than once at the end, so only where somebody needs the text on the way.
        watched = request.stop or request.audience is not None or request.top_logprobs is not None
        transcript = Transcript(self._text, request) if watched else None
        return Draw(index, prompt, request, random.Random(request.seed), transcript)
