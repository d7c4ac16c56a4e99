"""LoRA adapters: their shape, their files (PEFT's format, so that peft and vLLM read them), merging and training.

An adapter is a dict from PEFT's names ("base_model.model.<module>.lora_A.weight") to tensors, A [r, in] and
B [out, r]; it adds alpha_scale * B @ A to the module's weight. It is saved as a safetensors and a JSON file, and
everything that is loaded is finite and consistent with its spec.
"""

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from shared.errors import ModelError
from shared.modeling.checksums import TensorBytes, checksum_of
from shared.modeling.loading import DTYPES, Dtype

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
_PREFIX = "base_model.model."
_SAFETENSORS_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}

Adapter = dict[str, Tensor]


@dataclass(frozen=True)
class LoraSpec:
    """An adapter on every linear layer of the blocks from `first_layer` on (None: of all blocks).

    `alpha_scale` is alpha / rank, the factor of B @ A; `dtype` is that of the saved tensors.
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
        if isinstance(module, nn.Linear) and (block := block_index(name)) is not None and block >= first
    }
    if not found:
        raise ModelError(f"expected linear layers in blocks from {first} on, found none: lower first_layer")
    return found


def block_index(name: str) -> int | None:
    """Return the block that a module name lies in ("model.layers.7.mlp.up_proj" is 7), None outside of blocks."""
    parts = name.split(".")
    for parent, child in pairwise(parts):
        if parent == "layers" and child.isdigit():
            return int(child)
    return None


def attach_lora(model: PreTrainedModel, spec: LoraSpec, seed: int) -> PeftModel:
    """Wrap `model` for training: fp32 adapter "default" whose B is 0, so that it starts as the base model.

    A is drawn from `seed` alone; the global generators are left as they were. Raises ModelError where an adapter does
    not go with the model.
    """
    config = LoraConfig(**_peft_config(model, spec))
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # peft still asks transformers by the old name whether it checkpoints activations
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        torch.manual_seed(seed)
        try:
            return get_peft_model(model, config, autocast_adapter_dtype=True)
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
    _require_same("tensor names", set(expected), set(tensors))
    for name, tensor in tensors.items():
        _require_same(f"shape of {name}", tuple(expected[name].shape), tuple(tensor.shape))
    set_peft_model_state_dict(peft_model, dict(tensors), adapter_name=adapter_name)


def save_adapter(directory: Path, tensors: Mapping[str, Tensor], spec: LoraSpec, base_model: str) -> None:
    """Write `tensors` (cast to spec.dtype) and their PEFT configuration into an existing directory."""
    dtype = DTYPES[spec.dtype]
    saved = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in tensors.items()}
    save_file(saved, directory / WEIGHTS_FILE, metadata={"format": "pt"})
    modules = {name.removeprefix(_PREFIX).rsplit(".lora_", 1)[0] for name in tensors}
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "bias": "none",
        "inference_mode": True,
        **_config_of(modules, spec),
    }
    (directory / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True))


def load_adapter(directory: Path) -> tuple[Adapter, LoraSpec]:
    """Read an adapter. Raises ModelError where a file is missing or broken, or a tensor is not finite."""
    try:
        config = json.loads((directory / CONFIG_FILE).read_text())
        tensors: Adapter = load_file(directory / WEIGHTS_FILE)
        spec = _spec_of(config, tensors)
    except (OSError, SafetensorError, ValueError, KeyError) as broken:
        raise ModelError(
            f"expected {CONFIG_FILE} and {WEIGHTS_FILE} of a LoRA adapter in {directory}: {broken}"
        ) from broken
    for _name, _a, _b in _pairs(tensors, spec):
        pass
    return tensors, spec


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """Return the identity of `tensors`; `checksums.file_checksum` of the file they are saved in is the same."""
    return checksum_of(
        TensorBytes(name, _SAFETENSORS_NAMES[tensor.dtype], tuple(tensor.shape), _bytes_of(tensor))
        for name, tensor in sorted(tensors.items())
    )


def is_finite(tensor: Tensor) -> bool:
    """No element is infinite or NaN. A sum that is finite shows it at a fraction of the cost, as it is so only where
    every element is; one that is not may just be too large.
    """
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def merge_adapter(model: nn.Module, tensors: Mapping[str, Tensor], spec: LoraSpec) -> None:
    """Add an adapter to the weights of `model`, in place and for good. Raises ModelError where it does not fit."""
    merged = merged_parameters(model, tensors, spec)
    with torch.no_grad():
        for name, parameter in merged.items():
            model.get_parameter(name).copy_(parameter)


def merged_parameters(model: nn.Module, tensors: Mapping[str, Tensor], spec: LoraSpec) -> dict[str, Tensor]:
    """Return the weights that an adapter changes, by parameter name, merged in fp32 and cast to the model's dtype.

    `model` keeps its own. Raises ModelError where the adapter names a module that is missing, or not of its shape.
    """
    merged: dict[str, Tensor] = {}
    with torch.no_grad():
        for module, a, b in _pairs(tensors, spec):
            weight = _weight(model, module, (b.shape[0], a.shape[1]))
            delta = b.to(weight.device, torch.float32) @ a.to(weight.device, torch.float32)
            merged[f"{module}.weight"] = weight.float().add(delta, alpha=spec.alpha_scale).to(weight.dtype)
    return merged


def _weight(model: nn.Module, module: str, shape: tuple[int, int]) -> Tensor:
    try:
        weight = model.get_parameter(f"{module}.weight")
    except AttributeError as missing:
        raise ModelError(f"the adapter changes {module}, which the model does not have: another base?") from missing
    _require_same(f"shape of {module}", tuple(weight.shape), shape)
    return weight.detach()


def _pairs(tensors: Mapping[str, Tensor], spec: LoraSpec) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield (module, A, B) of an adapter after checking that it is complete, finite and of the rank it says."""
    modules = sorted({name.removeprefix(_PREFIX).rsplit(".lora_", 1)[0] for name in tensors})
    expected = {f"{_PREFIX}{module}.lora_{side}.weight" for module in modules for side in "AB"}
    _require_same("tensor names", expected, set(tensors))
    for name, tensor in tensors.items():
        if not is_finite(tensor):
            raise ModelError(f"expected finite values in the adapter, found others in {name}: discard this version")
    for module in modules:
        a, b = (tensors[f"{_PREFIX}{module}.lora_{side}.weight"] for side in "AB")
        _require_same(f"ranks of {module}", (spec.rank, spec.rank), (a.shape[0], b.shape[1]))
        yield module, a, b


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


def _spec_of(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> LoraSpec:
    """Read a spec out of a PEFT configuration. Raises ValueError or KeyError for what it cannot express."""
    for unsupported in ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "modules_to_save"):
        if config.get(unsupported):
            raise ValueError(f"plain LoRA expected, but {unsupported} is set")
    if config["peft_type"] != "LORA" or config.get("bias", "none") != "none":
        raise ValueError(f"peft_type LORA without bias expected, got {config['peft_type']}, bias {config.get('bias')}")
    dtypes = {tensor.dtype for tensor in tensors.values()}
    names = [name for name, dtype in DTYPES.items() if {dtype} == dtypes]
    if not names:
        raise ValueError(f"tensors of one dtype out of {', '.join(DTYPES)} expected, got {dtypes or 'none'}")
    rank = int(config["r"])
    return LoraSpec(
        rank=rank,
        alpha_scale=float(config["lora_alpha"]) / rank,
        first_layer=min(config.get("layers_to_transform") or [0]) or None,
        dtype="bfloat16" if names[0] == "bfloat16" else "float32",
    )


def _bytes_of(tensor: Tensor) -> memoryview:
    flat = tensor.detach().to("cpu").contiguous().flatten().view(torch.uint8)
    view: memoryview = flat.numpy().data
    return view


def _require_same(what: str, expected: object, got: object) -> None:
    if expected != got:
        raise ModelError(f"{what}: expected {expected}, got {got}; is this adapter of another base model?")
