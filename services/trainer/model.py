"""The student in training: frozen base weights and one fp32 adapter, the only thing that gets a gradient.

What always holds: the blocks below the adapter's first one keep no activations (nothing in them has a gradient);
logits are made only at the tokens that predict a response; and the adapter's parameters are in one fixed order.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from services.trainer.chunked import OutputLayer
from services.trainer.trees import Tree, TreeTensors, tree_tensors
from shared.errors import ModelError
from shared.modeling.adapters import LoraSpec, adapter_tensors, attach_lora, set_adapter_tensors

# Settings of a configuration that change logits after the output layer, which this forward pass leaves out.
_LOGIT_CHANGES = ("final_logit_softcapping", "logits_scaling", "logit_scale")


class StudentModel:
    """A causal language model with the adapter that training changes."""

    def __init__(self, base: PreTrainedModel, spec: LoraSpec, seed: int) -> None:
        for name in _LOGIT_CHANGES:
            if getattr(base.config, name, None) not in (None, 1, 1.0):
                raise ModelError(f"training does not support models with {name}; choose another base model")
        self.spec = spec
        self.config: Any = base.config
        self.peft: PeftModel = attach_lora(base, spec, seed)
        self._causal: Any = self.peft.get_base_model()
        self._body: nn.Module = getattr(self._causal, self._causal.base_model_prefix)
        self._output: Any = self._causal.get_output_embeddings()
        self._named = {name: each for name, each in sorted(self.peft.named_parameters()) if each.requires_grad}

    @property
    def named_parameters(self) -> dict[str, nn.Parameter]:
        """The trainable parameters by name, sorted by it."""
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

    def adapter(self) -> dict[str, Tensor]:
        """A copy of the adapter under the names it is published with."""
        return adapter_tensors(self.peft)

    def load_adapter(self, tensors: Mapping[str, Tensor]) -> None:
        set_adapter_tensors(self.peft, tensors)

    def output_layer(self, temperature: float) -> OutputLayer:
        return OutputLayer(self._output.weight.detach(), self._output.bias, temperature)

    def logits(self, trees: Sequence[Tree], nodes: Sequence[tuple[int, int]], temperature: float = 1.0) -> Tensor:
        """Logits [P, V], divided by `temperature`, at P (tree, node) places; gradients as the caller has them."""
        return self.output_layer(temperature).logits(self.hidden(trees, nodes))

    def hidden(self, trees: Sequence[Tree], nodes: Sequence[tuple[int, int]]) -> Tensor:
        """What the output layer reads [P, H] at P (tree, node) places; gradients as the caller has them."""
        inputs = tree_tensors(trees)
        self._use_attention(inputs.attends is not None)
        hidden_GNH = self._hidden(inputs)
        tree_P, node_P = torch.tensor(list(nodes), device=hidden_GNH.device).unbind(1)
        hidden_PH: Tensor = hidden_GNH[tree_P, node_P]
        return hidden_PH

    def _hidden(self, inputs: TreeTensors) -> Tensor:
        device = self._causal.device
        mask = None if inputs.attends is None else self._mask(inputs.attends.to(device))
        hidden: Tensor = self._body(
            input_ids=inputs.ids.to(device),
            position_ids=inputs.positions.to(device),
            attention_mask=mask,
            use_cache=False,
        ).last_hidden_state
        return hidden

    def _mask(self, attends: Tensor) -> Tensor:
        """The additive mask [G, 1, N, N] that every attention implementation takes."""
        dtype = self._causal.dtype
        lowest = torch.finfo(dtype).min
        return torch.zeros(attends.shape, dtype=dtype, device=attends.device).masked_fill_(~attends, lowest)[:, None]

    def _use_attention(self, masked: bool) -> None:
        """Plain attention on a CPU for trees and wherever there is a gradient: torch's fused bf16 attention makes
        a step there 5 to 11 % slower. Long rows without a gradient keep it, for its memory."""
        plain = self._causal.device.type == "cpu" and (masked or torch.is_grad_enabled())
        wanted = "eager" if plain else "sdpa"
        if self.config._attn_implementation != wanted:
            self._causal.set_attn_implementation(wanted)
