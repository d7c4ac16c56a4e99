"""A student's version as a directory that transformers and vLLM load as it is: one model, or an adapter for its base.

What always holds: the weights are, bit for bit, those that the student's own engine computes with in the run's dtype; a
text ends at the tokens at which the student's ends, and is sampled as in the run's evaluations unless a caller says
otherwise; tokenizer and chat template are those of the run.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from shared.contracts.messages import Sampling
from shared.contracts.weights import WeightsManifest
from shared.errors import ModelError
from shared.modeling.adapters import load_adapter, merge_adapter, save_adapter
from shared.modeling.directory import MODEL_CONFIG, read_object
from shared.modeling.loading import GENERATION_CONFIG, Dtype, eos_ids, load_model, load_tokenizer
from shared.modeling.saving import small_files
from shared.modeling.versions import set_model_tensors, version_tensors

CHAT_TEMPLATE = "chat_template.jinja"
_TOKENIZER_CONFIG = "tokenizer_config.json"
_OF_A_MODEL = frozenset({MODEL_CONFIG, GENERATION_CONFIG})


@dataclass(frozen=True)
class Release:
    """What leaves a run. base: directory of the weights that training began with. published: directory and manifest of
    the version; None: the base itself. chat_template: one of ours, None keeps the model's own. sampling: the default of
    whoever generates with it; its max_tokens are not taken along."""

    base: Path
    published: tuple[Path, WeightsManifest] | None
    dtype: Dtype
    chat_template: str | None
    sampling: Sampling


def write_model(release: Release, directory: Path) -> None:
    """One whole model into an existing directory. Raises ModelError, OSError."""
    tokenizer = load_tokenizer(release.base, release.chat_template)
    model = load_model(release.base, release.dtype)
    if release.published is not None:
        _put(model, *release.published)
    model.generation_config = _generation(model, tokenizer, release.sampling)
    model.save_pretrained(directory)
    for path in directory.glob("*.safetensors"):
        path.chmod(0o644)  # safetensors writes files that only their owner can read
    _copy_beside(release, directory, without=frozenset())


def write_adapter(release: Release, directory: Path, base_name: str) -> None:
    """The adapter of a version, with its tokenizer, into an existing directory. base_name: what it says it belongs to.

    Raises ModelError, also where the version is no adapter, and OSError.
    """
    if release.published is None or release.published[1].kind != "lora":
        raise ModelError("expected a version that is an adapter: this one is a whole model, export it as one")
    tensors, spec = load_adapter(release.published[0])
    save_adapter(directory, tensors, spec, base_name)
    _copy_beside(release, directory, without=_OF_A_MODEL)


def _put(model: PreTrainedModel, directory: Path, manifest: WeightsManifest) -> None:
    if manifest.kind == "lora":
        merge_adapter(model, *load_adapter(directory))
    else:
        set_model_tensors(model, version_tensors(directory, manifest))


def _generation(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sampling: Sampling) -> GenerationConfig:
    """Made anew: what else a base model's own says (top-k, penalties) the student's engine does not do either."""
    own = model.generation_config
    # No limit of tokens: vLLM would let nobody ask for more. top_k 0 is no cut; left out, it would be 50.
    drawn = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    return GenerationConfig(
        bos_token_id=own.bos_token_id,
        # `generate` looks here alone, the student also at the tokenizer's.
        eos_token_id=sorted(eos_ids(own, tokenizer)),
        pad_token_id=tokenizer.pad_token_id,
        **(drawn if sampling.temperature else {"do_sample": False}),
    )


def _copy_beside(release: Release, directory: Path, without: frozenset[str]) -> None:
    """The base's small files that are not there yet, as they are, and the run's chat template."""
    for path in small_files(release.base):
        if path.name not in without and not (directory / path.name).exists():
            shutil.copyfile(path, directory / path.name)
    if release.chat_template is None:
        return
    template = str(load_tokenizer(release.base, release.chat_template).chat_template)
    (directory / CHAT_TEMPLATE).write_text(template, encoding="utf-8")
    # Some programs look there first, and would find the base's own.
    settings = directory / _TOKENIZER_CONFIG
    if settings.is_file() and (found := read_object(settings)).pop("chat_template", None) is not None:
        settings.write_text(json.dumps(found, indent=2, ensure_ascii=False), encoding="utf-8")
