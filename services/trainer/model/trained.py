"""What training changes of a model: an adapter on frozen weights, or all of them (`run.weights`).

What always holds: the tensors of either kind are what a version holds, by the names that it is published with; and
those of `start` are the student's as the run begins.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from shared.files.store import Content
from shared.modeling.adapters import (
    LoraSpec,
    adapter_files,
    adapter_tensors,
    attach_lora,
    set_adapter_tensors,
)
from shared.modeling.loading import Dtype, load_model
from shared.modeling.saving import small_files
from shared.modeling.versions import MODEL_FILE, model_tensors, set_model_tensors, write_model


class Trained(Protocol):
    """network: the model as it computes; those of its parameters that take a gradient are trained.

    causal: the causal language model in it.
    """

    kind: Literal["lora", "full"]
    network: Any
    causal: Any

    def tensors(self) -> dict[str, Tensor]:
        """What a version of the present weights holds, on the CPU; it may share memory with them."""

    def set_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Raises ModelError where names or shapes are others."""

    def start(self) -> Mapping[str, Tensor]:
        """What a version of the weights that the run began with holds. Raises ModelError."""

    def files(self, tensors: Mapping[str, Tensor], base_model: str, /) -> dict[str, Content]:
        """A version's files by name; equal tensors give equal bytes. base_model: sha256 of what they change."""


class TrainedAdapter:
    """An adapter that starts at zero, drawn from `seed`, in the type that it is published and served in."""

    kind: Literal["lora", "full"] = "lora"

    def __init__(self, base: PreTrainedModel, spec: LoraSpec, seed: int) -> None:
        self.network: Any = attach_lora(base, spec, seed)
        self.causal: Any = self.network.get_base_model()
        self._spec = spec
        # Kept, as an adapter is small and cannot be read again: it was drawn.
        self._start = adapter_tensors(self.network)

    def tensors(self) -> dict[str, Tensor]:
        return adapter_tensors(self.network)

    def set_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        set_adapter_tensors(self.network, tensors)

    def start(self) -> Mapping[str, Tensor]:
        return self._start

    def files(self, tensors: Mapping[str, Tensor], base_model: str, /) -> dict[str, Content]:
        return adapter_files(tensors, self._spec, base_model)


class TrainedModel:
    """All weights of `base`, which was loaded from `directory`. A version is a whole model's directory, in `dtype`."""

    kind: Literal["lora", "full"] = "full"

    def __init__(self, base: PreTrainedModel, directory: Path) -> None:
        self.network: Any = base.requires_grad_(True)
        self.causal: Any = base
        self._directory = directory
        self.dtype: torch.dtype = base.dtype

    def tensors(self) -> dict[str, Tensor]:
        return model_tensors(self.causal)

    def set_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        set_model_tensors(self.causal, tensors)

    def start(self) -> Mapping[str, Tensor]:
        """Read again: kept in memory it would be as large as the model."""
        dtype: Dtype = "float32" if self.dtype == torch.float32 else "bfloat16"
        return model_tensors(load_model(self._directory, dtype))

    def files(self, tensors: Mapping[str, Tensor], _base_model: str, /) -> dict[str, Content]:
        # What makes a directory a model beside its weights: configuration, tokenizer, chat template.
        beside = [path for path in small_files(self._directory) if path.suffix in (".json", ".jinja")]
        small: dict[str, Content] = {path.name: path.read_bytes() for path in beside}
        return {**small, MODEL_FILE: partial(write_model, tensors)}
