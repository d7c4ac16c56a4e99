"""The self-teacher: an exponential moving average of what is trained, or a trust region (method 3.5).

What always holds: it starts as a copy of the student and is kept in fp32; it moves only after an update that the
student really made; and its pass through the model gets no gradient and leaves the student's weights as they were.
Of an adapter it is the average of A and of B, which is not that of B @ A; the method says what that costs.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from services.trainer.model.model import StudentModel
from services.trainer.step.distil import OutputLayer
from services.trainer.step.trees import Tree
from shared.errors import StorageError


class EmaTeacher:
    """θ_T ← (1 - rate) θ_T + rate θ_S after each update."""

    def __init__(self, model: StudentModel, rate: float) -> None:
        self._model = model
        self._rate = rate
        self._tensors: dict[str, Tensor] = {}
        self._rounded: dict[str, Tensor] | None = None
        self.reset()

    def reset(self) -> None:
        """Become a copy of the student as it is now."""
        self._tensors = {name: each.detach().clone() for name, each in self._model.named_parameters.items()}
        self._changed()

    def follow(self) -> None:
        """One step of the average."""
        with torch.no_grad():
            for name, parameter in self._model.named_parameters.items():
                # In fp32: at a small rate, a step of the average would vanish in bf16.
                self._tensors[name].lerp_(parameter, self._rate)
        self._changed()

    def hidden(self, trees: Sequence[Tree], nodes: Sequence[tuple[int, int]]) -> Tensor:
        """As StudentModel.hidden, with the teacher's weights and without gradients."""
        with torch.no_grad(), self.standing_in():
            return self._model.hidden(trees, nodes)

    def standing_in(self) -> AbstractContextManager[None]:
        """The student's model computes with the teacher's weights meanwhile."""
        return self._model.standing_in(self._in_use())

    def output_layer(self, temperature: float) -> OutputLayer:
        """What turns the teacher's hidden states into logits."""
        return self._model.output_layer(temperature, self._in_use())

    def tensors(self, *, copy: bool = True) -> dict[str, Tensor]:
        """By parameter name, on the CPU."""
        return {name: tensor.to("cpu", copy=copy) for name, tensor in self._tensors.items()}

    def move(self, device: str) -> None:
        """What is kept of it."""
        self._tensors = {name: tensor.to(device) for name, tensor in self._tensors.items()}
        self._changed()

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Raises StorageError where the names are not those of the student's parameters."""
        if set(tensors) != set(self._tensors):
            raise StorageError("the teacher in the checkpoint has other parameters than what is trained here")
        for name, tensor in self._tensors.items():
            tensor.copy_(tensors[name])  # into the tensors that are there, which keeps their device
        self._changed()

    def _changed(self) -> None:
        self._rounded = None

    def _in_use(self) -> Mapping[str, Tensor]:
        """As the model computes with them, made once after each change."""
        if self._rounded is None:
            self._rounded = self._model.rounded(self._tensors)
        return self._rounded


class NoTeacher(EmaTeacher):
    """Of a method that asks none: no copy of anything is made, and what a checkpoint has of one is left there."""

    def __init__(self, model: StudentModel) -> None:
        super().__init__(model, rate=0.0)

    def reset(self) -> None:
        """There is nothing to copy to."""

    def follow(self) -> None:
        """There is nothing to move."""

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """There is nothing to take it up."""

    def _in_use(self) -> Mapping[str, Tensor]:
        raise RuntimeError("this method asks no self-teacher, and none is kept")


class TrustRegionTeacher(EmaTeacher):
    """Logits between those of the student as it was at the last `reset`, and, by `rate`, as it is now."""

    def follow(self) -> None:
        """The reference stays."""

    def hidden(self, trees: Sequence[Tree], nodes: Sequence[tuple[int, int]]) -> Tensor:
        """Two passes, both with the teacher's prompts; the output layer is linear, so this mixes the logits."""
        # One pass with the reference standing in, then one of the student, whose weights are back in place by then.
        reference = super().hidden(trees, nodes)
        with torch.no_grad():
            return reference.lerp_(self._model.hidden(trees, nodes), self._rate)
