"""The student in training: a model, and in fp32 what training changes of it.

What always holds: blocks below the first one that is trained keep no activations (nothing in them has a gradient);
logits are made only at the tokens that predict a response; trained parameters are in one fixed order; and where the
model computes in less than fp32 its own are the trained ones, rounded, and their gradients are summed in fp32.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from services.trainer.model.packing import checked_packing, packing_of
from services.trainer.model.trained import Trained
from services.trainer.step.distil import OutputLayer
from services.trainer.step.trees import Tree, TreeTensors, tree_tensors
from shared.errors import ModelError

# Settings of a configuration that change logits after the output layer, which this forward pass leaves out.
_LOGIT_CHANGES = (
    "final_logit_softcapping",
    "lm_head_multiplier",
    "logit_scale",
    "logits_mup_width_multiplier",
    "logits_scaling",
    "logits_soft_cap",
    "output_logit_soft_cap",
)


class StudentModel:
    """A causal language model with the part of it that training changes. packing: which rows may share a pass."""

    def __init__(self, trained: Trained, *, recompute: bool = False) -> None:
        """recompute: of every block only its input is kept, and its pass is made again in the backward pass.

        Raises ModelError where the log-probs of a forward pass would not be those of the model, or where it has no
        blocks to recompute.
        """
        self.trained = trained
        self.network: Any = trained.network
        self._causal: Any = trained.causal
        self.config: Any = self._causal.config
        for name in _LOGIT_CHANGES:
            if getattr(self.config, name, None) not in (None, 1, 1.0):
                raise ModelError(f"training does not support models with {name}; choose another base model")
        self._body, self._output = _parts(self._causal)
        self._own = {name: each for name, each in sorted(self.network.named_parameters()) if each.requires_grad}
        self._named = {name: _in_fp32(each) for name, each in self._own.items()}
        self._output_name = next((name for name, each in self._own.items() if each is self._output.weight), None)
        # The list says what may be shared; the trial, which goes through this very object, what really may.
        self.packing = packing_of(self.config)
        self.packing = checked_packing(self)
        if recompute:
            _recompute(blocks_of(self._causal, "trainer.recompute = false"))

    @property
    def named_parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, in fp32, by name, sorted by it. After a change of them `round` brings the model along."""
        return self._named

    @property
    def parameters(self) -> list[nn.Parameter]:
        return list(self._named.values())

    @property
    def device(self) -> torch.device:
        device: torch.device = self._causal.device
        return device

    @property
    def vocabulary(self) -> int:
        return int(self._output.weight.shape[0])

    @property
    def context_tokens(self) -> int:
        return int(self.config.max_position_embeddings)

    @property
    def sharded(self) -> bool:
        """Whether each rank holds a part of what is trained, and the gradients that it takes are sums already."""
        return False

    def take_gradients(self) -> None:
        """Bring what the backward passes left to the trained parameters, where they do not get it by themselves."""

    def drop_gradients(self) -> None:
        """Forget those that were not taken."""
        for own in self._own.values():
            own.grad = None

    @property
    def rounds(self) -> bool:
        """Whether the model's own parameters are rounded ones."""
        return any(self._named[name] is not own for name, own in self._own.items())

    def round(self) -> None:
        """Give the model the trained parameters as they are now."""
        with torch.no_grad():
            for name, own in self._own.items():
                if self._named[name] is not own:
                    own.copy_(self._named[name])

    def set_tensors(self, tensors: Mapping[str, Tensor], exact: Mapping[str, Tensor]) -> None:
        """Take up a version's tensors; exact: the fp32 ones that they are rounded from, of a model that rounds.

        Raises ModelError where they are another model's.
        """
        self.trained.set_tensors(tensors)
        with torch.no_grad():
            for name, parameter in self._named.items():
                parameter.copy_(exact[name] if exact else self._own[name])

    def rounded(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Values of the trained parameters in the types that the model computes in; copied only to be rounded."""
        return {name: values[name].to(own.dtype) for name, own in self._own.items()}

    @contextmanager
    def standing_in(self, rounded: Mapping[str, Tensor]) -> Iterator[None]:
        """The model computes with these meanwhile; storage is exchanged, not copied."""
        held = {name: own.data for name, own in self._own.items()}
        try:
            # `.data`, so that autograd does not see the exchange and the optimizer keeps the same parameters.
            for name, own in self._own.items():
                own.data = rounded[name]
            yield
        finally:
            for name, own in self._own.items():
                own.data = held[name]

    def move(self, device: str) -> None:
        """All of it; parameters stay the objects that they are."""
        self.network.to(device)
        for name, exact in self._named.items():
            if exact is not self._own[name]:
                exact.data = exact.data.to(device)

    def output_layer(self, temperature: float, rounded: Mapping[str, Tensor] | None = None) -> OutputLayer:
        """The last layer; with `rounded` as it is while those stand in."""
        weight: Tensor = self._output.weight
        if rounded is not None and self._output_name is not None:
            weight = rounded[self._output_name]
        return OutputLayer(weight, self._output.bias, temperature)

    def logits(self, trees: Sequence[Tree], nodes: Sequence[tuple[int, int]], temperature: float = 1.0) -> Tensor:
        """Logits [P, V], divided by `temperature`, at P (tree, node) places; gradients as the caller has them."""
        return self.output_layer(temperature).logits(self.hidden(trees, nodes))

    def hidden(self, trees: Sequence[Tree], nodes: Sequence[tuple[int, int]]) -> Tensor:
        """What the output layer reads [P, H] at P (tree, node) places; gradients as the caller has them."""
        sizes = [len(tree.tokens) for tree in trees]
        # Side by side, a row longer than this would change the rotary angles of the short ones.
        if len(trees) > 1 and max(sizes) > self.packing.together_tokens:
            hidden_NH = torch.cat([self._hidden(tree_tensors([tree]))[0] for tree in trees])
            starts = [0, *accumulate(sizes)]
            return hidden_NH[torch.tensor([starts[tree] + node for tree, node in nodes], device=hidden_NH.device)]
        hidden_GNH = self._hidden(tree_tensors(trees))
        tree_P, node_P = torch.tensor(list(nodes), device=hidden_GNH.device).unbind(1)
        hidden_PH: Tensor = hidden_GNH[tree_P, node_P]
        return hidden_PH

    def _hidden(self, inputs: TreeTensors) -> Tensor:
        """What the body makes of one pass [G, N, H]."""
        device, branches = self._causal.device, {}
        if inputs.attends is not None:
            branches = {
                "position_ids": inputs.positions.to(device),
                "attention_mask": self._mask(inputs.attends.to(device)),
            }
        self._use_attention(bool(branches))
        hidden: Tensor = self._body(input_ids=inputs.ids.to(device), use_cache=False, **branches).last_hidden_state
        return hidden

    def _mask(self, attends: Tensor) -> Tensor:
        """The additive mask [G, 1, N, N] that every attention implementation takes."""
        dtype = self._causal.dtype
        # Finite: with -inf the softmax of a row that sees nothing would be NaN.
        lowest = torch.finfo(dtype).min
        return torch.zeros(attends.shape, dtype=dtype, device=attends.device).masked_fill_(~attends, lowest)[:, None]

    def _use_attention(self, masked: bool) -> None:
        """Plain attention on a CPU for trees and wherever there is a gradient: torch's fused bf16 attention makes
        a step there 5 to 11 % slower. Long rows without a gradient keep it, for its memory. What it cannot do for a
        model (sinks, soft caps) is plain, too."""
        plain = self._causal.device.type == "cpu" and (masked or torch.is_grad_enabled())
        wanted = "eager" if plain or not self._causal._supports_sdpa else "sdpa"
        if self.config._attn_implementation != wanted:
            self._causal.set_attn_implementation(wanted)


def _parts(causal: Any) -> tuple[nn.Module, Any]:
    """Body and output layer of a causal language model. Raises ModelError where it is put together otherwise."""
    body = getattr(causal, causal.base_model_prefix, None)
    output = causal.get_output_embeddings()
    length = getattr(causal.config, "max_position_embeddings", None)
    if body is None or not isinstance(output, nn.Linear) or length is None:
        raise ModelError(
            f"training expects a text model with a body, a linear output layer and max_position_embeddings in its "
            f"config.json, got {type(causal).__name__} of type {causal.config.model_type}; choose another base model"
        )
    return body, output


def blocks_of(causal: Any, instead: str) -> list[nn.Module]:
    """What the body computes one after the other. Raises ModelError where transformers marks none; instead: the setting
    that needs no blocks."""
    blocks = [each for each in causal.modules() if isinstance(each, GradientCheckpointingLayer)]
    if not blocks:
        raise ModelError(
            f"expected blocks that are marked as such in a model of type {causal.config.model_type}, found none; set "
            f"{instead}"
        )
    return blocks


def _recompute(blocks: Sequence[nn.Module]) -> None:
    for block in blocks:
        # Not transformers' own switch, which acts in training mode only, where dropout would be on, too. Without
        # reentry, so that a frozen block's input needs no gradient for the adapters in it to get theirs.
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)


def _in_fp32(parameter: nn.Parameter) -> nn.Parameter:
    """The parameter, or one in fp32 that gathers its gradients."""
    if parameter.dtype == torch.float32:
        return parameter
    exact = nn.Parameter(parameter.detach().float())
    parameter.register_post_accumulate_grad_hook(partial(_gather, exact))  # type: ignore[no-untyped-call]
    return exact


def _gather(exact: nn.Parameter, rounded: Tensor) -> None:
    """Move a gradient over: summed over micro-batches in the model's own type it would lose the small ones."""
    gradient = rounded.grad
    assert gradient is not None
    exact.grad = gradient.float() if exact.grad is None else exact.grad.add_(gradient)
    rounded.grad = None
