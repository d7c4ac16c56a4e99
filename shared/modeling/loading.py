"""From a model's directory to the model, its tokenizer and the tokens that end its texts.

Only safetensors and JSON are ever read, no code comes with a model, and nothing here touches the network. What does not
fit together, in shape, names or ids, is refused by name. The tokens that end a text are the same in every engine, and
what a trainer finds at the end of a rollout.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.logging import disable_progress_bar

from shared.errors import ModelError, shown
from shared.modeling.allocator import bound_compiled_products
from shared.modeling.attention import GROUPED, PLAIN_MODEL_TYPES
from shared.modeling.chat import FIXED_TEXTS, dated, encode
from shared.modeling.directory import (
    MODEL_CONFIG,
    checked_directory,
    few,
    read_model_config,
    read_object,
    reading,
    weight_files,
)
from shared.modeling.fitting import file_tensors, require_finite, require_fit, require_known_type, require_tied

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


Dtype = Literal["bfloat16", "float32"]

DTYPES: dict[str, torch.dtype] = {"bfloat16": torch.bfloat16, "float32": torch.float32}
_TEMPLATES = Path(__file__).parent / "templates"


def load_model(path: Path, dtype: Dtype = "bfloat16", device: str = "cpu") -> PreTrainedModel:
    """Return the causal language model in `path`, in evaluation mode. Raises ModelError."""
    check_model(path)
    if device == "cpu":
        bound_compiled_products()
    with reading("a causal language model", path):
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=DTYPES[dtype],
            # Straight to a GPU, since it may be larger than what a container has of host memory. On a CPU the weights
            # stay mapped from their files.
            device_map=None if device == "cpu" else {"": device},
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
        )
    require_finite(model.named_parameters(), path)
    # Only there: on a GPU torch's own kernels are faster.
    if device == "cpu" and model.config.model_type in PLAIN_MODEL_TYPES:
        model.set_attn_implementation(GROUPED)
    return model.eval()


def check_model(path: Path) -> None:
    """Refuse a directory whose files do not make one model. Raises ModelError.

    Of its weights none is read but those that are there twice.
    """
    disable_progress_bar()
    skeleton = load_skeleton(path, "bfloat16")
    require_fit(checked_directory(path), skeleton)
    require_tied(path, skeleton)
    # Its value is not needed here: what is wrong with it shall show now, not at the first answer.
    generation_config(path)


def check_weights(path: Path) -> None:
    """`check_model`, and every weight is finite, for a program that loads them by itself. Raises ModelError.

    Reads all weights, one after the other.
    """
    check_model(path)
    require_finite(file_tensors(*weight_files(path)), path)


def load_config(path: Path) -> PreTrainedConfig:
    """The configuration in `path`, of weights that are not quantised. Raises ModelError."""
    require_known_type(read_model_config(path), path)
    with reading(f"the {MODEL_CONFIG} of a causal language model", path):
        config: PreTrainedConfig = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    return config


def vocabulary_size(path: Path) -> int:
    """How many ids the model in `path` has. Raises ModelError."""
    config = load_config(path)
    with reading("vocab_size in its config.json", path):
        return int(config.get_text_config().vocab_size)


def load_skeleton(path: Path, dtype: Dtype) -> PreTrainedModel:
    """Return the model in `path` without its values: shapes and dtypes on the meta device. Raises ModelError."""
    config = load_config(path)
    # Without memory for values, so that this is cheap for a model of any size.
    with reading(f"the {MODEL_CONFIG} of a causal language model", path), torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=DTYPES[dtype], trust_remote_code=False)
    return model


def load_tokenizer(path: Path, chat_template: str | None) -> PreTrainedTokenizerBase:
    """Return the tokenizer in `path`; `chat_template` names a file in templates/, None keeps the model's own.

    One of ours begins with the token that the tokenizer puts before every text, if it has one.
    Raises ModelError where the tokenizer, its chat template or its eos token is missing, or it gives ids that the
    model does not have.
    """
    with reading("a tokenizer", path):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            path, local_files_only=True, trust_remote_code=False
        )
        encode(tokenizer, "".join(FIXED_TEXTS))  # some of what its files say is looked at then only
    if chat_template is not None:
        tokenizer.chat_template = _begin(tokenizer) + _template(chat_template)
    if isinstance(tokenizer.chat_template, dict):
        tokenizer.chat_template = _default_of(tokenizer.chat_template, path)
    if not tokenizer.chat_template:
        raise ModelError(f'{path} brings no chat template: set one, for instance chat_template = "compact"')
    tokenizer.chat_template = dated(tokenizer.chat_template)
    if tokenizer.eos_token_id is None:
        raise ModelError(f"expected the tokenizer in {path} to name an eos token, found none")
    _require_known_ids(tokenizer, vocabulary_size(path), path)
    return tokenizer


def _default_of(templates: Mapping[str, str], path: Path) -> str:
    """Of several that a tokenizer has for different uses. Raises ModelError."""
    if "default" not in templates:
        raise ModelError(
            f"expected a chat template named 'default' of the tokenizer in {path}, which has {few(sorted(templates))}: "
            'set one of ours, chat_template = "compact", or keep one alone in its chat_template.jinja'
        )
    return templates["default"]


def _require_known_ids(tokenizer: PreTrainedTokenizerBase, size: int, path: Path) -> None:
    """Raises ModelError where a prompt may hold an id that the embedding does not have."""
    # Those that every tokenizer may set: a model's own, such as Gemma 3's `image_token`, come up with pictures alone.
    roles = (tokenizer.special_tokens_map.get(role) for role in type(tokenizer).SPECIAL_TOKENS_ATTRIBUTES)
    named, added = {str(token) for token in roles if token is not None}, tokenizer.added_tokens_decoder

    def comes_up(token: str, index: int) -> bool:
        """Texts give no special tokens, and some models have one too many for the pictures of a sibling."""
        # So only those count that the template writes, or the tokenizer sets by itself.
        special = index in added and added[index].special
        return not special or token in named or token in str(tokenizer.chat_template)

    ids = tokenizer.get_vocab().items()
    beyond = sorted((index, token) for token, index in ids if index >= size and comes_up(token, index))
    if beyond:
        raise ModelError(
            f"expected token ids below {size}, the model's vocab_size, of the tokenizer in {path}, got "
            f"{few([f'{shown(token)} ({index})' for index, token in beyond])}: resize the model's embedding and save "
            "it, or take the tokens out"
        )


def _begin(tokenizer: PreTrainedTokenizerBase) -> str:
    """What a template of ours begins with: prompts are encoded without the tokenizer's own additions, and a model that
    was trained with a token before every text needs it."""
    with_additions: list[int] = tokenizer("x")["input_ids"]
    begins = tokenizer.bos_token_id is not None and with_additions[:1] == [tokenizer.bos_token_id]
    return "{{- bos_token -}}" if begins else ""


def _template(name: str) -> str:
    known = {file.stem: file for file in sorted(_TEMPLATES.glob("*.jinja"))}
    if name not in known:
        raise ModelError(f"expected a chat template out of {', '.join(known)}, got {name!r}")
    return known[name].read_text("utf-8")
