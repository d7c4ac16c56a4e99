"""The tokens that end a text: the same in every engine, and what a trainer finds at the end of a rollout."""

from pathlib import Path
from typing import Any

from transformers import AutoConfig, GenerationConfig, PreTrainedTokenizerBase

from shared.errors import ModelError
from shared.modeling.directory import MODEL_CONFIG, read_object, reading

GENERATION_CONFIG = "generation_config.json"


def eos_ids(generation: Any, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Those of a generation configuration and of the tokenizer."""
    named = generation.eos_token_id
    listed = named if isinstance(named, list) else [named]
    return frozenset(i for i in [*listed, tokenizer.eos_token_id] if i is not None)


def generation_config(model_dir: Path) -> Any:
    """What a model loaded from there would have as its generation configuration. Raises ModelError."""
    own = (model_dir / GENERATION_CONFIG).is_file()
    file = model_dir / (GENERATION_CONFIG if own else MODEL_CONFIG)
    _require_ids(read_object(file).get("eos_token_id"), file)
    with reading(file.name, model_dir):
        if own:
            return GenerationConfig.from_pretrained(model_dir, local_files_only=True)
        config = AutoConfig.from_pretrained(model_dir, local_files_only=True, trust_remote_code=False)
        return GenerationConfig.from_model_config(config)


def _require_ids(eos: object, file: Path) -> None:
    listed = eos if isinstance(eos, list) else [eos]
    if eos is not None and not all(isinstance(one, int) and not isinstance(one, bool) for one in listed):
        raise ModelError(f"{file}: expected eos_token_id to be an id or a list of ids, got {str(eos)[:60]!r}")
