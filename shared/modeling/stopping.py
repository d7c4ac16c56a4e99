"""The tokens that end a text: the same in every engine, and what a trainer finds at the end of a rollout."""

from pathlib import Path
from typing import Any

from transformers import AutoConfig, GenerationConfig, PreTrainedTokenizerBase


def eos_ids(generation: Any, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Those of a generation configuration and of the tokenizer."""
    named = generation.eos_token_id
    listed = named if isinstance(named, list) else [named]
    return frozenset(i for i in [*listed, tokenizer.eos_token_id] if i is not None)


def generation_config(model_dir: Path) -> Any:
    """What a model loaded from there would have as its generation configuration."""
    if (model_dir / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(model_dir, local_files_only=True)
    return GenerationConfig.from_model_config(AutoConfig.from_pretrained(model_dir, local_files_only=True))
