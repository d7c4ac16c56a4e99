"""The engine inside the student's process: Hugging Face transformers on CPU or one GPU.

Versions live side by side as the weights they change, merged in fp32 once when they are loaded; a batch of one
version runs on exactly those weights, with the rest shared. Applying LoRA in every step instead was measured at
2.4 times the step.
"""

import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from services.student.engines.decoding import Decoding, Draw
from services.student.engines.port import (
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
from shared.errors import ModelError
from shared.modeling.adapters import CONFIG_FILE, checksum, load_adapter, merged_parameters
from shared.modeling.attention import PLAIN_MODEL_TYPES
from shared.modeling.chat import render, rendering_of
from shared.modeling.checksums import file_checksum
from shared.modeling.loading import Dtype, eos_ids, load_model, load_tokenizer
from shared.modeling.versions import load_full, require_tensors_of


@dataclass(frozen=True)
class _Version:
    """The parameters that differ from the base model's, and the identity of the files they came from."""

    checksum: str
    parameters: dict[str, Tensor]


class TransformersEngine:
    """See `port.Engine`. `threads` is for the whole process and must not exceed the cores it may use."""

    continuous = False

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
        self._tokenizer = load_tokenizer(model_dir, chat_template)
        _require_plain(self._model.config.model_type)
        self._parameters = dict(self._model.named_parameters())
        # The tensors themselves, not copies: a version is made active by pointing the parameters elsewhere.
        self._base = {name: parameter.data for name, parameter in self._parameters.items()}
        self.rendering = rendering_of(self._tokenizer)
        eos = eos_ids(self._model.generation_config, self._tokenizer)
        self._decoding = Decoding(self._model, self._tokenizer, eos)
        self._versions: dict[str, _Version] = {}
        self._active: dict[str, Tensor] = {}

    guides = False
    hashes = True

    @property
    def context(self) -> int:
        return int(self._model.config.max_position_embeddings)

    @property
    def vocabulary_size(self) -> int:
        return int(self._model.config.vocab_size)

    def load(self, version: str, directory: Path | None, checksum: str | None = None) -> str:
        loaded = self._read(directory)
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
        # The model may still point at the version's tensors, and would keep them in memory.
        self._activate({})

    def versions(self) -> dict[str, str]:
        return {name: version.checksum for name, version in self._versions.items()}

    def generate(
        self, requests: Sequence[GenerationRequest], cancelled: threading.Event | None = None
    ) -> list[Generation]:
        by_version: dict[str, list[Draw]] = {}
        for index, request in enumerate(requests):
            self._held(request.version)
            by_version.setdefault(request.version, []).append(self._sample(index, request))
        results: dict[int, Generation] = {}
        for version, samples in by_version.items():
            self._activate(self._held(version).parameters)
            # Alike together, little padding. Which samples share a chunk, and in which rows, changes log-probs by
            # rounding: the same requests in the same order must always be cut the same way, or a run is not repeated.
            samples.sort(key=lambda sample: (len(sample.prompt), sample.prompt))
            for first in range(0, len(samples), self.slots):
                chunk = samples[first : first + self.slots]
                self._decoding.run(chunk, cancelled)
                results.update((sample.index, self._decoding.finish(sample)) for sample in chunk)
        return [results[index] for index in range(len(requests))]

    def health(self) -> EngineHealth:
        return EngineHealth(EngineState.READY, f"transformers on {self._model.device}, {self._model.dtype}")

    def prompt_tokens(self, messages: Sequence[ChatMessage]) -> int:
        return len(render(self._tokenizer, messages))

    def probe(self, _version: str) -> None:
        """The tensors in memory are those of the file, by their checksum."""

    def close(self) -> None:
        """Nothing was started."""

    def _read(self, directory: Path | None) -> _Version:
        if directory is None:
            return _Version(file_checksum(*sorted(self._model_dir.glob("*.safetensors"))), {})
        with torch.no_grad():
            # A delta is merged into the base model's weights, never into another version's.
            self._activate({})
            if (directory / CONFIG_FILE).is_file():
                tensors, spec = load_adapter(directory)
                return _Version(checksum(tensors), merged_parameters(self._model, tensors, spec))
            return self._read_full(directory)

    def _read_full(self, directory: Path) -> _Version:
        """Read a whole model's weights, which must be those of this architecture."""
        tensors = load_full(*sorted(directory.glob("*.safetensors")))
        require_tensors_of(self._base, tensors, str(directory))
        base = next(iter(self._base.values()))
        return _Version(checksum(tensors), {name: tensor.to(base) for name, tensor in tensors.items()})

    def _activate(self, parameters: dict[str, Tensor]) -> None:
        """Point the model at these parameters, and at the base model's everywhere else."""
        if parameters is self._active:
            return
        for name in self._active.keys() | parameters.keys():
            self._parameters[name].data = parameters.get(name, self._base[name])
        self._active = parameters

    def _held(self, version: str) -> _Version:
        if version not in self._versions:
            held = ", ".join(self._versions) or "none"
            raise UnknownVersionError(f"expected a version that is loaded ({held}), got {version}: load it first")
        return self._versions[version]

    def _sample(self, index: int, request: GenerationRequest) -> Draw:
        prompt = tuple(prompt_ids(self._tokenizer, request, self.vocabulary_size))
        request = request.within(self.context, len(prompt))
        # Decoding token by token costs more than once at the end, so only where somebody needs the text on the way.
        watched = request.stop or request.audience is not None or request.top_logprobs is not None
        transcript = Transcript(self._tokenizer, request) if watched else None
        return Draw(index, prompt, request, random.Random(request.seed), transcript)


def _require_plain(model_type: str) -> None:
    if model_type not in PLAIN_MODEL_TYPES:
        raise ModelError(
            f"the transformers engine runs models of type {', '.join(sorted(PLAIN_MODEL_TYPES))}, "
            f"got {model_type}: serve this model with another engine"
        )
