"""The self-teacher: an exponential moving average of the student's adapter, or a trust region (method 3.5).

What always holds: it starts as a copy of the student and is kept in fp32; it moves only after an update that the
student really made; and its pass through the model gets no gradient and leaves the student's weights as they were.
The average is one of A and B, which is not the average of B @ A; the method says what that costs.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from services.trainer.model import StudentModel
from services.trainer.trees import Tree
from shared.errors import StorageError


class EmaTeacher:
    """θ_T ← (1 - rate) θ_T + rate θ_S after each update."""

    def __init__(self, model: StudentModel, rate: float) -> None:
        self._model = model
        self._rate = rate
        self._tensors: dict[str, Tensor] = {}
        self.reset()

    def reset(self) -> None:
        """Become a copy of the student as it is now."""
        self._tensors = {name: each.detach().float().clone() for name, each in self._model.named_parameters.items()}

    def follow(self) -> None:
        """One step of the average."""
        with torch.no_grad():
            for name, parameter in self._model.named_parameters.items():
                self._tensors[name].lerp_(parameter.float(), self._rate)

    def hidden(self, trees: Sequence[Tree], nodes: Sequence[tuple[int, int]]) -> Tensor:
        """As StudentModel.hidden, with the teacher's adapter and without gradients."""
        with torch.no_grad(), self._standing_in():
            return self._model.hidden(trees, nodes)

    def tensors(self) -> dict[str, Tensor]:
        """A copy, by parameter name."""
        return {name: tensor.to("cpu", copy=True) for name, tensor in self._tensors.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Raises StorageError where the names are not those of the student's parameters."""
        if set(tensors) != set(self._tensors):
            raise StorageError("the teacher in the checkpoint has other parameters than the student's adapter")
        for name, tensor in self._tensors.items():
            tensor.copy_(tensors[name])

    @contextmanager
    def _standing_in(self) -> Iterator[None]:
        """The student's parameters hold the teacher's values meanwhile; storage is exchanged, not copied."""
        held = {name: parameter.data for name, parameter in self._model.named_parameters.items()}
        try:
            for name, parameter in self._model.named_parameters.items():
                parameter.data = self._tensors[name]
            yield
        finally:
            for name, parameter in self._model.named_parameters.items():
                parameter.data = held[name]


class TrustRegionTeacher(EmaTeacher):
    """Logits between those of the student as it was at the last `reset`, and, by `rate`, as it is now."""

    def follow(self) -> None:
        """The reference stays."""

    def hidden(self, trees: Sequence[Tree], nodes: Sequence[tuple[int, int]]) -> Tensor:
        """Two passes, both with the teacher's prompts; the output layer is linear, so this mixes the logits."""
        reference = super().hidden(trees, nodes)
        with torch.no_grad():
            return reference.lerp_(self._model.hidden(trees, nodes), self._rate)
