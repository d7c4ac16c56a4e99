"""From a model's directory to the model and its tokenizer in memory.

Only safetensors and JSON are ever read, no code comes with a model, and nothing here touches the network.
"""

from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from shared.errors import ModelError
from shared.modeling.attention import GROUPED, PLAIN_MODEL_TYPES

Dtype = Literal["bfloat16", "float32"]

DTYPES: dict[str, torch.dtype] = {"bfloat16": torch.bfloat16, "float32": torch.float32}
_TEMPLATES = Path(__file__).parent / "templates"


def load_model(path: Path, dtype: Dtype = "bfloat16", device: str = "cpu") -> PreTrainedModel:
    """Return the causal language model in `path`, in evaluation mode. Raises ModelError."""
    checked_directory(path)
    disable_progress_bar()
    options: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "trust_remote_code": False}
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(path, dtype=DTYPES[dtype], **options)
    except (OSError, ValueError, KeyError, SafetensorError) as broken:
        raise ModelError(f"expected a causal language model in {path}, could not load it: {broken}") from broken
    if device == "cpu" and model.config.model_type in PLAIN_MODEL_TYPES:
        model.set_attn_implementation(GROUPED)
    return model.to(device).eval()


def load_skeleton(path: Path, dtype: Dtype) -> PreTrainedModel:
    """Return the model in `path` without its values: shapes and dtypes on the meta device. Raises ModelError."""
    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(
                config, dtype=DTYPES[dtype], trust_remote_code=False
            )
    except (OSError, ValueError, KeyError) as broken:
        raise ModelError(f"expected the config.json of a causal language model in {path}: {broken}") from broken
    skeleton: PreTrainedModel = model
    return skeleton


def load_tokenizer(path: Path, chat_template: str | None) -> PreTrainedTokenizerBase:
    """Return the tokenizer in `path`; `chat_template` names a file in templates/, None keeps the model's own.

    Raises ModelError where the tokenizer, its chat template or its eos token is missing.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError) as broken:
        raise ModelError(f"expected a tokenizer in {path}, could not load it: {broken}") from broken
    if chat_template is not None:
        tokenizer.chat_template = _template(chat_template)
    if not tokenizer.chat_template:
        raise ModelError(f'{path} brings no chat template: set one, for instance chat_template = "compact"')
    if tokenizer.eos_token_id is None:
        raise ModelError(f"expected the tokenizer in {path} to name an eos token, found none")
    return tokenizer


def _template(name: str) -> str:
    known = {file.stem: file for file in sorted(_TEMPLATES.glob("*.jinja"))}
    if name not in known:
        raise ModelError(f"expected a chat template out of {', '.join(known)}, got {name!r}")
    return known[name].read_text()


def checked_directory(path: Path) -> Path:
    """Refuse what is not a directory with safetensors: pickled weights run code when they are loaded."""
    if not path.is_dir():
        raise ModelError(f"expected a model directory, found a file: {path}; name the directory that holds it")
    if not (path / "config.json").is_file():
        raise ModelError(f"expected a config.json in {path}, found {_listing(path)}")
    if not any(path.glob("*.safetensors")):
        raise ModelError(
            f"expected *.safetensors in {path}, found {_listing(path)}; .bin and .pt files are not loaded because "
            "they can run code: convert them with save_pretrained(..., safe_serialization=True)"
        )
    return path


def _listing(path: Path) -> str:
    names = sorted(file.name for file in path.iterdir())
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") or "nothing"
