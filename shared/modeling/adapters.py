"""LoRA adapters: their shape, their files (PEFT's format, so that peft and vLLM read them), merging and training.

An adapter is a dict from PEFT's names ("base_model.model.<module>.lora_A.weight") to tensors, A [r, in] and
B [out, r]; it adds alpha_scale * B @ A to the module's weight. It is saved as a safetensors and a JSON file, and
everything that is loaded is finite and consistent with its spec.
"""

import json
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PreTrainedModel

from shared.errors import ModelError, reason
from shared.files.store import Content, write_file
from shared.modeling.checksums import checksum_of
from shared.modeling.directory import ADAPTER_CONFIG, few
from shared.modeling.fitting import is_finite
from shared.modeling.loading import DTYPES, Dtype
from shared.modeling.plain_lora import MERGE_IT, read_plain_lora, require_targets
from shared.modeling.tensorfiles import read_tensors, tensor_bytes, write_tensors

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = ADAPTER_CONFIG
_PICKLED = "adapter_model.bin"
_PREFIX = "base_model.model."
_SIDE = re.compile(r"\.lora_[AB]\.weight$")

Adapter = dict[str, Tensor]


@dataclass(frozen=True)
class LoraSpec:
    """An adapter on every linear layer of the blocks from `first_layer` on (None: of all blocks).

    `alpha_scale` is alpha / rank, the factor of B @ A; `dtype` is that of the saved tensors, and of the attached ones.
    """

    rank: int
    alpha_scale: float
    first_layer: int | None = None
    dtype: Dtype = "float32"


def target_modules(model: nn.Module, spec: LoraSpec) -> dict[str, nn.Linear]:
    """Return the linear layers that an adapter of `spec` changes, by their module names. Raises ModelError."""
    first = spec.first_layer or 0
    found = {
        name: module
        for name, module in model.named_modules()
        # Outside of the blocks are embedding and output layer, which no adapter changes.
        if isinstance(module, nn.Linear) and (block := block_index(name)) is not None and block >= first
    }
    if not found:
        blocks = {block for name, _ in model.named_modules() if (block := block_index(name)) is not None}
        if first in blocks or not blocks:
            raise ModelError(
                "expected linear layers in the model's blocks, for an adapter to change, found none: train all weights "
                'of a model that is a specialist already (run.weights = "full", specialize = false), or choose another'
            )
        raise ModelError(f"lora.first_layer: expected less than {len(blocks)}, the model's blocks, got {first}")
    return found


def block_index(name: str) -> int | None:
    """Return the block that a module name lies in ("model.layers.7.mlp.up_proj" is 7), None outside of blocks."""
    parts = name.split(".")
    for parent, child in pairwise(parts):
        if parent == "layers" and child.isdigit():
            return int(child)
    return None


def attach_lora(model: PreTrainedModel, spec: LoraSpec, seed: int) -> PeftModel:
    """Wrap `model` for training: an adapter "default" whose B is 0, so that it starts as the base model.

    It is in `spec.dtype`, which is fp32 or the model's own. A is drawn from `seed` alone; the global generators are
    left as they were. Raises ModelError where an adapter does not go with the model.
    """
    config = LoraConfig(**_peft_config(model, spec))
    # The random stream of whoever calls must go on as if no adapter had been made.
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # peft still asks transformers by the old name whether it checkpoints activations
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        torch.manual_seed(seed)
        try:
            return get_peft_model(model, config, autocast_adapter_dtype=spec.dtype == "float32")
        except ValueError as refused:
            kind = model.config.model_type
            raise ModelError(
                f'no adapter goes with a model of type {kind}: {refused}; set run.weights = "full" or choose another'
            ) from refused


def adapter_tensors(peft_model: PeftModel, adapter_name: str = "default") -> Adapter:
    """Return detached copies, on the CPU, of an attached adapter under the names it is saved with."""
    state = get_peft_model_state_dict(peft_model, adapter_name=adapter_name, save_embedding_layers=False)
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in state.items()}


def set_adapter_tensors(peft_model: PeftModel, tensors: Mapping[str, Tensor], adapter_name: str = "default") -> None:
    """Copy `tensors` into an attached adapter. Raises ModelError where their names are not that adapter's."""
    expected = get_peft_model_state_dict(peft_model, adapter_name=adapter_name, save_embedding_layers=False)
    if set(expected) != set(tensors):
        raise ModelError(f"expected the tensors of the attached adapter; {_difference(expected, tensors)}")
    for name, tensor in tensors.items():
        _require_same(f"shape of {name}", tuple(expected[name].shape), tuple(tensor.shape))
    set_peft_model_state_dict(peft_model, dict(tensors), adapter_name=adapter_name)


def save_adapter(directory: Path, tensors: Mapping[str, Tensor], spec: LoraSpec, base_model: str) -> None:
    """Write `adapter_files` into an existing directory. Raises OSError."""
    for name, content in adapter_files(tensors, spec, base_model).items():
        write_file(directory / name, content)


def adapter_files(tensors: Mapping[str, Tensor], spec: LoraSpec, base_model: str) -> dict[str, Content]:
    """By name, the files of `tensors` (cast to spec.dtype) and of their PEFT configuration."""
    dtype = DTYPES[spec.dtype]
    saved = {name: tensor.detach().to("cpu", dtype) for name, tensor in tensors.items()}
    modules = {name.removeprefix(_PREFIX).rsplit(".lora_", 1)[0] for name in tensors}
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "bias": "none",
        "inference_mode": True,
        **_config_of(modules, spec),
    }
    # Sorted, so that equal adapters are equal files.
    described = json.dumps(config, indent=2, sort_keys=True).encode()
    return {CONFIG_FILE: described, WEIGHTS_FILE: partial(write_tensors, saved, metadata={"format": "pt"})}


def renamed_adapter(tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> Adapter:
    """The same adapter on modules of other names. Raises ModelError for one that `names` does not have."""
    modules = {name: name.removeprefix(_PREFIX).rsplit(".lora_", 1)[0] for name in tensors}
    if others := set(modules.values()) - set(names):
        raise ModelError(f"the adapter changes {few(sorted(others))}, which the model does not have: another base?")
    return {name.replace(modules[name], names[modules[name]], 1): tensor for name, tensor in tensors.items()}


def load_adapter(directory: Path, *, brought: bool = False) -> tuple[Adapter, LoraSpec]:
    """Read an adapter. Raises ModelError where a file is missing or broken, a tensor is not finite, or the adapter is
    more than `LoraSpec` says.

    brought: it is no version of ours, and to be merged: of whatever floating dtypes it is, it is read as float32.
    """
    config = read_plain_lora(directory)
    if not (directory / WEIGHTS_FILE).is_file() and (directory / _PICKLED).is_file():
        raise ModelError(
            f"expected {WEIGHTS_FILE} in {directory}, found {_PICKLED}, which is not loaded because it can run code: "
            "convert it with PEFT's save_pretrained"
        )
    try:
        tensors: Adapter = read_tensors(directory / WEIGHTS_FILE)
    except (OSError, SafetensorError) as broken:
        raise ModelError(f"expected {WEIGHTS_FILE} of a LoRA adapter in {directory}: {reason(broken)}") from broken
    if brought and all(tensor.is_floating_point() for tensor in tensors.values()):
        tensors = {name: tensor.float() for name, tensor in tensors.items()}
    spec = LoraSpec(config.r, config.alpha_scale, config.first_layer, _dtype_of(tensors, directory))
    # Only the tensors say which modules are changed.
    require_targets(config, [module for module, _a, _b in _pairs(tensors, spec, str(directory))], directory)
    return tensors, spec


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """Return the identity of `tensors`; `checksums.file_checksum` of the file they are saved in is the same."""
    return checksum_of(tensor_bytes(name, tensor) for name, tensor in sorted(tensors.items()))


def merge_adapter(model: nn.Module, tensors: Mapping[str, Tensor], spec: LoraSpec) -> float:
    """Add an adapter to the weights of `model`, in place and for good, one after the other, where they are.

    Returns what rounding to the model's dtype made of the change: the norm of what came of it less what was meant, over
    the norm of that; 0.0 of an adapter that changes nothing. Raises ModelError where the adapter does not fit; the
    model is then of no more use.
    """
    lost = meant = 0.0
    with torch.no_grad():
        for module, weight, delta in _deltas(model, tensors, spec):
            merged = (weight.float() + delta).to(weight.dtype)
            lost += float((merged.float() - weight.float() - delta).square().sum(dtype=torch.float64))
            meant += float(delta.square().sum(dtype=torch.float64))
            model.get_parameter(f"{module}.weight").copy_(merged)
    return math.sqrt(lost / meant) if meant else 0.0


# As a decorator, and not inside: who takes one after the other keeps gradients of its own meanwhile.
@torch.no_grad()
def merged_parameters(model: nn.Module, tensors: Mapping[str, Tensor], spec: LoraSpec) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights that an adapter changes, with parameter names, merged in fp32 and cast to the model's dtype.

    `model` keeps its own. Raises ModelError where the adapter names a module that is missing, or not of its shape.
    """
    for module, weight, delta in _deltas(model, tensors, spec):
        # Rounded to the model's dtype once, at the end.
        yield f"{module}.weight", (weight.float() + delta).to(weight.dtype)


def _deltas(model: nn.Module, tensors: Mapping[str, Tensor], spec: LoraSpec) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Each module that an adapter changes with its weight, and with what is added to it, in fp32."""
    own = {name for name, _ in model.named_parameters()}
    for module, a, b in _pairs(tensors, spec):
        weight = _weight(model, module, (b.shape[0], a.shape[1]))
        if f"{module}.weight" not in own:
            raise ModelError(
                f"the adapter changes {module}, whose weight the base model ties to another layer's: save the base "
                "with a weight of its own for it, and tie_word_embeddings = false"
            )
        delta = b.to(weight.device, torch.float32) @ a.to(weight.device, torch.float32)
        yield module, weight, delta.mul_(spec.alpha_scale)


def _weight(model: nn.Module, module: str, shape: tuple[int, int]) -> Tensor:
    try:
        changed = model.get_submodule(module)
    except AttributeError as missing:
        raise ModelError(f"the adapter changes {module}, which the model does not have: another base?") from missing
    if not isinstance(changed, nn.Linear):
        raise ModelError(
            f"the adapter changes {module}: expected a linear layer, the base has {type(changed).__name__}"
        )
    _require_same(f"shape of {module}", tuple(changed.weight.shape), shape)
    return changed.weight.detach()


def _pairs(
    tensors: Mapping[str, Tensor], spec: LoraSpec, where: str = "an adapter"
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield (module, A, B) of an adapter after checking that it is complete, finite and of the rank it says."""
    modules = sorted({name.removeprefix(_PREFIX).rsplit(".lora_", 1)[0] for name in tensors if _SIDE.search(name)})
    expected = {f"{_PREFIX}{module}.lora_{side}.weight" for module in modules for side in "AB"}
    if expected != set(tensors):
        advice = f"; {MERGE_IT}" if set(tensors) - expected else ""
        raise ModelError(
            f"expected lora_A and lora_B of linear layers in {where}; {_difference(expected, tensors)}{advice}"
        )
    for name, tensor in tensors.items():
        if not is_finite(tensor):
            raise ModelError(f"expected finite values in the adapter, found others in {name}: discard this version")
    for module in modules:
        a, b = (tensors[f"{_PREFIX}{module}.lora_{side}.weight"] for side in "AB")
        _require_same(f"ranks of {module}", (spec.rank, spec.rank), (a.shape[0], b.shape[1]))
        yield module, a, b


def _difference(expected: Iterable[str], got: Iterable[str]) -> str:
    missing, others = sorted(set(expected) - set(got)), sorted(set(got) - set(expected))
    return "; ".join(f"{kind} {few(names)}" for kind, names in (("missing:", missing), ("others:", others)) if names)


def _peft_config(model: PreTrainedModel, spec: LoraSpec) -> dict[str, Any]:
    return {"task_type": "CAUSAL_LM", "bias": "none", **_config_of(target_modules(model, spec), spec)}


def _config_of(modules: Iterable[str], spec: LoraSpec) -> dict[str, Any]:
    """The part of a PEFT configuration that says which modules are adapted, and how strongly."""
    names = list(modules)
    blocks = sorted({index for name in names if (index := block_index(name)) is not None})
    alpha = spec.alpha_scale * spec.rank
    return {
        "r": spec.rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted({name.rsplit(".", 1)[-1] for name in names}),
        "layers_to_transform": blocks,
        "layers_pattern": "layers",
    }


def _dtype_of(tensors: Mapping[str, Tensor], directory: Path) -> Dtype:
    found = {tensor.dtype for tensor in tensors.values()}
    for name in get_args(Dtype):
        if found == {DTYPES[name]}:
            dtype: Dtype = name
            return dtype
    raise ModelError(f"expected tensors of one dtype out of {', '.join(DTYPES)} in {directory}, got {found or 'none'}")


def _require_same(what: str, expected: object, got: object) -> None:
    if expected != got:
        raise ModelError(f"{what}: expected {expected}, got {got}; is this adapter of another base model?")
