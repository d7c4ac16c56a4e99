"""The model an engine decodes with, and the weights it has at the moment: the base model's or those of a version.

On a CPU with bf16 products the weights of linear layers lie as oneDNN reads them. It rearranges a plain weight in every
call, and a decoding step has so few rows that this costs as much as their product: packed, a step of the embedded
model was measured at .63 to .8 of the plain one's time, with the same numbers but for rounding in passes of hundreds
of rows. They are held once more, packed, beside the mapped ones that versions are merged from.
"""

import copy
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

Weights = Mapping[str, Tensor]
"""By name of the weights of an `ActiveModel`, where they are not the base model's; packed where the model's are."""

_OPERATORS = ("_linear_pointwise", "_reorder_linear_weight", "_is_mkldnn_bf16_supported")

_ROWS = 32
"""That packed weights are laid out for: few, as in a decoding step. Any number may be multiplied."""


class ActiveModel:
    """`activate` and whoever runs the model are one thread's; the rest is for any."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        # The tensors themselves, not copies: other weights become active by pointing the parameters elsewhere.
        self.base: dict[str, Tensor] = {name: parameter.data for name, parameter in model.named_parameters()}
        self.unchanged = _sharing(model)
        """The base model, whatever is active: for who merges a version meanwhile."""
        self._linears = _pack(model) if _packs(model) else {}
        self._parameters = dict(model.named_parameters())
        # What is not packed stays the base's own, mapped from its file.
        self._own = {**self.weights(self.base.items()), **{name: self.base[name] for name in self._parameters}}
        self._active: Weights = {}
        self._point(self._own)

    @property
    def packed(self) -> bool:
        return bool(self._linears)

    def weights(self, parameters: Iterable[tuple[str, Tensor]]) -> Weights:
        """Parameters of the base model's names, taken one after the other, as `activate` takes them."""
        found: dict[str, Tensor] = {}
        for name, tensor in parameters:
            if name in self._parameters:
                # Where the rest is packed: one that is mapped from a file would keep all of the file in memory.
                found[name] = tensor.clone() if self.packed else tensor
            # One of them may be an embedding and an output layer at once.
            found |= {linear: _packed(tensor) for linear in self._linears.get(name, {})}
        return found

    def activate(self, weights: Weights) -> None:
        """Compute with these, and with the base model's everywhere else."""
        if weights is self._active:
            return
        names = self._active.keys() | weights.keys()
        self._point({name: weights.get(name, self._own[name]) for name in names})
        self._active = weights

    def _point(self, weights: Weights) -> None:
        linears = {name: linear for each in self._linears.values() for name, linear in each.items()}
        for name, tensor in weights.items():
            if name in linears:
                linears[name].packed = tensor
            else:
                self._parameters[name].data = tensor


class PackedLinear(nn.Module):
    """`nn.Linear` for inference. packed: its weight as oneDNN reads it, which is no parameter."""

    def __init__(self, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.packed = torch.empty(0)
        self.bias = bias

    def forward(self, states: Tensor) -> Tensor:
        # Of torch's own compiler for CPUs; the public way (torch.utils.mkldnn) also converts states and results, which
        # makes it slower than plain weights for few rows.
        product: Tensor = torch.ops.mkldnn._linear_pointwise(states, self.packed, self.bias, "none", [], "")
        return product


def _packs(model: PreTrainedModel) -> bool:
    """Whether packed weights help: in fp32 they were measured to be as fast as plain ones."""
    return model.device.type == "cpu" and model.dtype == torch.bfloat16 and has_bf16_products()


def has_bf16_products() -> bool:
    """Whether this processor computes in bf16 (AVX-512 BF16, AMX), and torch has what packing takes."""
    there = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    # They are no public functions, so another torch may be without them.
    named = there and all(hasattr(torch.ops.mkldnn, name) for name in _OPERATORS)
    processor = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    # oneDNN alone says yes to every AVX-512, where packing was measured to bring nothing.
    return bool(named and torch.ops.mkldnn._is_mkldnn_bf16_supported() and processor())


def _packed(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)
    return packed


def _pack(model: nn.Module) -> dict[str, dict[str, PackedLinear]]:
    """Exchange all linear layers, still without weights; return them by name of the parameter, then by their own."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found: dict[str, dict[str, PackedLinear]] = {}
    for name, linear in [each for each in model.named_modules() if type(each[1]) is nn.Linear]:
        packed = PackedLinear(linear.bias)
        model.set_submodule(name, packed)
        found.setdefault(names[id(linear.weight)], {})[f"{name}.weight"] = packed
    return found


def _sharing(model: nn.Module) -> nn.Module:
    """A model of the same tensors, with parameters of its own."""
    own = {id(parameter): nn.Parameter(parameter.data, requires_grad=False) for parameter in model.parameters()}
    return copy.deepcopy(model, dict(own))
