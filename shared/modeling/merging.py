"""Starting from a model that was tuned with LoRA already: its adapter merged into its base model, once, and cached.

Merged first, since the self-teacher is an average of adapters that starts where the student starts: beside an
adapter that is not zero, a teacher that starts at the base model would be another model for some fifty steps
(method 3.5).
"""

import hashlib
import json
from pathlib import Path

import torch

from shared.errors import ModelError
from shared.files.durable import locked, sha256_file
from shared.modeling.adapters import CONFIG_FILE, WEIGHTS_FILE, load_adapter, merge_adapter
from shared.modeling.directory import MODEL_CONFIG, holds_weights
from shared.modeling.loading import Dtype, load_config, load_model
from shared.modeling.plain_lora import read_plain_lora
from shared.modeling.saving import model_identity, save_model, small_hashes


def is_adapter(directory: Path) -> bool:
    """Whether a directory holds a PEFT adapter and no whole model; the base's config.json may lie beside it."""
    whole = (directory / MODEL_CONFIG).is_file() and holds_weights(directory)
    return (directory / CONFIG_FILE).is_file() and not whole


def base_name(adapter: Path) -> str:
    """The base model that an adapter names. Raises ModelError where it names none, or cannot be merged into one."""
    name = read_plain_lora(adapter).base_model_name_or_path
    if not name:
        raise ModelError(f"expected base_model_name_or_path in {adapter / CONFIG_FILE}, got {name!r}: name the base")
    return name


def ensure_merged(adapter: Path, base: Path, cache_dir: Path) -> Path:
    """The directory of `base` with `adapter` merged in; made on first use. Raises ModelError where they do not fit.

    The adapter's own tokenizer and chat template, where it has them, take the place of the base's.
    """
    tensors, spec = load_adapter(adapter)
    target = merged_directory(adapter, base, cache_dir)
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target.parent / f".{target.name}.lock"):
        if not target.is_dir():
            model = load_model(base, _dtype(base))
            merge_adapter(model, tensors, spec)
            save_model(model, target, [adapter, base])
    return target


def merged_directory(adapter: Path, base: Path, cache_dir: Path) -> Path:
    """Where the two merged lie, once they are made: named by what both hold. Raises ModelError."""
    try:
        changes = {name: sha256_file(adapter / name) for name in (WEIGHTS_FILE, CONFIG_FILE)}
    except OSError as missing:
        raise ModelError(f"expected {CONFIG_FILE} and {WEIGHTS_FILE} in {adapter}: {missing}") from missing
    identity = [changes, small_hashes(adapter), model_identity(base)]
    return cache_dir / "merged" / hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _dtype(base: Path) -> Dtype:
    """As the base model is saved; half precision becomes bfloat16."""
    return "float32" if load_config(base).dtype == torch.float32 else "bfloat16"
