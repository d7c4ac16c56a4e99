"""A student's version as a directory that transformers and vLLM load as it is: one model, or an adapter for its base.

What always holds: the weights are, bit for bit, those that a student on transformers computes with in the run's dtype
(one on vLLM computes with the adapter beside them, and merging rounds); a text ends at the tokens at which that of the
student ends, and is sampled as in the run's evaluations unless a caller says otherwise; tokenizer and chat template are
those of the run, and thinking is off, as it was there, unless a caller says otherwise.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from shared.contracts.messages import Sampling
from shared.contracts.weights import WeightsManifest
from shared.errors import ModelError
from shared.modeling.adapters import load_adapter, merge_adapter, save_adapter
from shared.modeling.chat import rendered
from shared.modeling.directory import MODEL_CONFIG, read_object
from shared.modeling.loading import GENERATION_CONFIG, Dtype, eos_ids, generation_config, load_model, load_tokenizer
from shared.modeling.saving import small_files
from shared.modeling.serving import served_modules
from shared.modeling.versions import set_model_tensors, version_tensors

CHAT_TEMPLATE = "chat_template.jinja"
_TOKENIZER_CONFIG = "tokenizer_config.json"
_OF_A_MODEL = frozenset({MODEL_CONFIG, GENERATION_CONFIG})
_WITHOUT_THINKING = "{%- if enable_thinking is not defined %}{%- set enable_thinking = false %}{%- endif %}"
_ASKED = ({"role": "user", "content": "x"},)


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


def write_model(release: Release, directory: Path) -> float:
    """One whole model into an existing directory. Returns what rounding made of an adapter's change (`merge_adapter`).

    Raises ModelError, OSError.
    """
    model = load_model(release.base, release.dtype)
    rounding = 0.0 if release.published is None else _put(model, *release.published)
    model.generation_config = _generation(release)
    model.save_pretrained(directory)
    for path in directory.glob("*.safetensors"):
        path.chmod(0o644)  # safetensors writes files that only their owner can read
    _copy_beside(release, directory)
    return rounding


def write_adapter(release: Release, directory: Path, base_name: str) -> None:
    """The adapter of a version, with its tokenizer, into an existing directory. base_name: what it says it belongs to.

    Raises ModelError, also where the version is no adapter or programs would look for its layers under several names,
    and OSError.
    """
    if release.published is None or release.published[1].kind != "lora":
        raise ModelError("expected a version that is an adapter: this one is a whole model, export it as one")
    if any(own != served for own, served in served_modules(release.base).items()):
        raise ModelError(
            f"the base model {release.base} is a part of another: PEFT and vLLM look for its layers under different "
            "names, and one of them would not find those of the adapter; export it as a whole model"
        )
    tensors, spec = load_adapter(release.published[0])
    save_adapter(directory, tensors, spec, base_name)
    _generation(release).save_pretrained(directory)
    _copy_beside(release, directory, adapter=True)


def _put(model: PreTrainedModel, directory: Path, manifest: WeightsManifest) -> float:
    if manifest.kind == "lora":
        return merge_adapter(model, *load_adapter(directory))
    set_model_tensors(model, version_tensors(directory, manifest))
    return 0.0


def _generation(release: Release) -> GenerationConfig:
    """Made anew: what else a base model's own says (top-k, penalties) the student's engine does not do either."""
    own, tokenizer = generation_config(release.base), load_tokenizer(release.base, release.chat_template)
    sampling = release.sampling
    # No limit of tokens: vLLM would let nobody ask for more. top_k 0 is no cut; left out, it would be 50.
    drawn = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    # Greedy to both: vLLM does not read `do_sample`, and transformers has no temperature of 0.
    greedy = {"do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 1}
    return GenerationConfig(
        bos_token_id=own.bos_token_id,
        # `generate` looks here alone, the student also at the tokenizer's.
        eos_token_id=sorted(eos_ids(own, tokenizer)),
        pad_token_id=tokenizer.pad_token_id,
        **(drawn if sampling.temperature else greedy),
    )


def _copy_beside(release: Release, directory: Path, *, adapter: bool = False) -> None:
    """The base's small files that are not there yet, as they are, and the run's chat template."""
    for path in small_files(release.base):
        if not (adapter and path.name in _OF_A_MODEL) and not (directory / path.name).exists():
            shutil.copyfile(path, directory / path.name)
    tokenizer = load_tokenizer(release.base, release.chat_template)
    template = str(tokenizer.chat_template)
    if _untold(tokenizer) != rendered(tokenizer, _ASKED):
        template = _WITHOUT_THINKING + template
    own = AutoTokenizer.from_pretrained(release.base, local_files_only=True, trust_remote_code=False)
    # A server of the adapter's base has to be given it: by itself it takes the base's.
    if own.chat_template == template and not adapter:
        return
    (directory / CHAT_TEMPLATE).write_text(template, encoding="utf-8")
    # Some programs look there first, and would find the base's own.
    settings = directory / _TOKENIZER_CONFIG
    if settings.is_file() and (found := read_object(settings)).pop("chat_template", None) is not None:
        settings.write_text(json.dumps(found, indent=2, ensure_ascii=False), encoding="utf-8")


def _untold(tokenizer: PreTrainedTokenizerBase) -> str:
    """The prompt of a caller who says nothing of thinking; the run had it off."""
    return str(tokenizer.apply_chat_template([*_ASKED], tokenize=False, add_generation_prompt=True))
