"""All weights of a model, shared out over ranks: of every tensor each rank holds some rows, in fp32, and no more.

What always holds: a block's weights are whole on a rank only while it computes with them, in the type that is served,
rounded from the exact ones; those outside of blocks, output layer included, from a pass until its backward pass. Every
gather is asked for by all ranks at once, so they make equally many passes. Optimizer and teacher work on a rank's own
rows, which are plain tensors, and ask nobody.

Sharding is FSDP2's (`fully_shard`): rows are cut as torch.chunk cuts them, and gradients are summed over ranks in fp32.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from transformers import PreTrainedModel

from services.trainer.model.model import StudentModel, blocks_of
from services.trainer.model.rowshares import own_rows
from services.trainer.model.teacher import EmaTeacher
from services.trainer.model.trained import TrainedModel
from services.trainer.ranks.group import Group
from services.trainer.step.distil import OutputLayer
from services.trainer.step.trees import Tree
from shared.errors import ModelError
from shared.modeling.versions import require_tensors_of

INSTEAD = "trainer.ranks = 1"


class ShardedModel(TrainedModel):
    """All weights of `base`, which was loaded from `directory` to the host, shared out over `group`."""

    def __init__(self, base: PreTrainedModel, directory: Path, group: Group, device: str) -> None:
        """device: "cuda" or "cpu", where they are computed with. Raises ModelError for a model without blocks."""
        super().__init__(base, directory)
        self.group = group
        _share_out(base, init_device_mesh(device, (group.size,)), self.dtype)

    def tensors(self) -> dict[str, Tensor]:
        """On rank 0; the others take part and get none."""
        self.causal.reshard()
        found: dict[str, Tensor] = {}
        for name, parameter in self.causal.named_parameters():
            # One after the other: no more than one is whole.
            whole = parameter.detach().full_tensor()
            if self.group.rank == 0:
                found[name] = whole.to(self.dtype).to("cpu")
        return found

    def set_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        self.causal.reshard()
        parameters = dict(self.causal.named_parameters())
        require_tensors_of(parameters, tensors, "what is to be trained")
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.to_local().copy_(own_rows([tensors[name]], self.group.rank, self.group.size))


class ShardedStudent(StudentModel):
    """As StudentModel. After `hidden` its output layer is whole, until the backward pass or a change of the weights."""

    def __init__(self, trained: ShardedModel, *, recompute: bool = False) -> None:
        self._rounds = trained.dtype != torch.float32
        super().__init__(trained, recompute=recompute)
        if self.packing.together_tokens < self.context_tokens:
            # Such rows go one by one, and so another number of passes on each rank.
            raise ModelError(
                f"expected a model whose rows can share a pass, got one of type {self.config.model_type}, where they "
                f"cannot; set {INSTEAD}"
            )
        # After the first pass, with which FSDP settles where the rows lie.
        self._named = {name: nn.Parameter(each.to_local().detach()) for name, each in self._own.items()}

    @property
    def sharded(self) -> bool:
        return True

    @property
    def rounds(self) -> bool:
        return self._rounds

    def round(self) -> None:
        """What is whole is of the weights as they were."""
        self._causal.reshard()

    def take_gradients(self) -> None:
        for name, own in self._own.items():
            if own.grad is not None:
                self._named[name].grad = own.grad.to_local()

    def set_tensors(self, tensors: Mapping[str, Tensor], exact: Mapping[str, Tensor]) -> None:
        if not exact:
            self.trained.set_tensors(tensors)
            return
        self._causal.reshard()
        with torch.no_grad():
            for name, rows in self._named.items():
                rows.copy_(exact[name])

    def hidden(self, trees: Sequence[Tree], nodes: Sequence[tuple[int, int]]) -> Tensor:
        hidden: Tensor = self._causal(partial(super().hidden, trees, nodes))
        return hidden


class ShardedTeacher(EmaTeacher):
    """The average as a second model that is shared out the same way, so that each rank averages its own rows."""

    def __init__(self, model: StudentModel, rate: float, own: ShardedStudent) -> None:
        """own: the teacher's model."""
        self._own = own
        super().__init__(model, rate)

    def reset(self) -> None:
        self._tensors = {name: each.detach() for name, each in self._own.named_parameters.items()}
        for name, each in self._model.named_parameters.items():
            self._tensors[name].copy_(each.detach())
        self._changed()

    def hidden(self, trees: Sequence[Tree], nodes: Sequence[tuple[int, int]]) -> Tensor:
        with torch.no_grad():
            return self._own.hidden(trees, nodes)

    def output_layer(self, temperature: float) -> OutputLayer:
        return self._own.output_layer(temperature)

    def _changed(self) -> None:
        self._own.round()


def _share_out(causal: Any, mesh: DeviceMesh, dtype: torch.dtype) -> None:
    # Inputs stay as they are: what a block is given has the right type already.
    policy = MixedPrecisionPolicy(dtype, torch.float32, cast_forward_inputs=False)
    for module in (*blocks_of(causal, INSTEAD), causal):
        for parameter in module.parameters():
            if not hasattr(parameter, "to_local"):
                # Block by block, so that no more than one is whole in fp32.
                parameter.data = parameter.data.float()
        _sum_gradients(fully_shard(module, mesh=mesh, mp_policy=policy))
    causal.forward = partial(_pass, causal.forward)


def _sum_gradients(module: FSDPModule) -> None:
    module.set_gradient_divide_factor(1.0)
    module.set_force_sum_reduction_for_comms(True)
    # An expert that no token of a rank went through has no gradient there, and the others would wait for it.
    module.set_reduce_scatter_unused_params(True)


def _pass(forward: Callable[..., Any], work: Callable[[], Tensor] | None = None, **inputs: Any) -> Any:
    """Of the model as its authors meant, or `work` that uses parts of it, while what is outside of blocks is whole."""
    return forward(**inputs) if work is None else work()
