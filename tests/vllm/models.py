"""Versions with full weights of the embedded model, published as a trainer does."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from services.student.config import StudentConfig
from shared.contracts.weights import WeightsManifest
from shared.modeling.adapters import checksum
from shared.modeling.loading import load_model, load_tokenizer
from shared.modeling.logprobs import probe
from shared.modeling.versions import MODEL_FILE, model_tensors, set_model_tensors
from tests.fakes.student import write_version

NOISE = 0.15
"""Of a weight's own spread: so much that two versions give clearly different log-probs."""

Tensors = dict[str, torch.Tensor]


class Models:
    """Version k is the base model with noise drawn from k, version 0 the base model itself; bfloat16."""

    def __init__(self, config: StudentConfig) -> None:
        self._config = config
        self._directory = config.prepared_model().path
        self._base = model_tensors(load_model(self._directory, "bfloat16"))
        self._model = load_model(self._directory, "float32")
        self._drawn: dict[int, Tensors] = {0: self._base}
        self._steps = 0

    def model(self, steps: int) -> PreTrainedModel:
        """In fp32."""
        if steps != self._steps:
            set_model_tensors(self._model, self.tensors(steps))
            self._steps = steps
        return self._model

    def tensors(self, steps: int) -> Tensors:
        if steps not in self._drawn:
            self._drawn[steps] = self._noised(torch.Generator().manual_seed(steps))
        return self._drawn[steps]

    def _noised(self, generator: torch.Generator) -> Tensors:
        return {
            name: (one + NOISE * one.float().std() * torch.randn(one.shape, generator=generator)).to(one.dtype)
            for name, one in self._base.items()
        }

    def publish(self, steps: int, tensors: Tensors | None = None) -> WeightsManifest:
        """Write `a@v<steps>`; with other `tensors` the manifest is that of those."""
        told: tuple[float, ...] = ()
        if tensors is None:
            tensors = self.tensors(steps)
            tokenizer = load_tokenizer(self._directory, self._config.section.chat_template)
            told = tuple(probe(self.model(steps), tokenizer))
        scratch = self._config.environment.run_dir / "scratch.safetensors"
        save_file(tensors, scratch, metadata={"format": "pt"})
        files = {MODEL_FILE: scratch.read_bytes(), "config.json": (self._directory / "config.json").read_bytes()}
        sha256 = json.loads((self._config.environment.run_dir / "models" / "a.json").read_text())["sha256"]
        given = {"kind": "full", "base_model": sha256, "checksum": checksum(tensors), "probe": told}
        return write_version(self._config.weights, steps, files, **given)

    def directory(self, steps: int) -> Path:
        return self._config.weights / f"v{steps:06d}"
