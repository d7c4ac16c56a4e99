"""Whether an engine can serve a base model and its versions, by its configuration and the names in its files.

vLLM finds what it reads by the names that layers have in a model's files. Those that transformers gives them in memory
may be others: a model that is one part among others is a whole one there, and experts are one tensor. An adapter whose
names vLLM does not find changes nothing, and vLLM does not say so.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Literal

from shared.errors import ModelError
from shared.modeling.adapters import LoraSpec, target_modules
from shared.modeling.attention import require_plain
from shared.modeling.directory import few, weight_files
from shared.modeling.fitting import tied_names, without_values
from shared.modeling.loading import load_config, load_skeleton

_OWN, _IN_PARTS = "model.", "model.language_model."
"""What the text model's names begin with in memory, and in the files of a model of parts."""


def require_served(path: Path, engine: str, weights: Literal["lora", "full"], adapts_from: int | None = None) -> None:
    """Refuse a model in `path`, whose files make one, where `engine` would serve its versions wrongly or not at all, or
    an adapter of its blocks from `adapts_from` on would change nothing. Raises ModelError.
    """
    if adapts_from is not None:
        target_modules(load_skeleton(path, "bfloat16"), LoraSpec(rank=1, alpha_scale=1.0, first_layer=adapts_from))
    if engine == "transformers":
        require_plain(load_config(path))
    elif weights == "lora":
        served_modules(path)
    else:
        _require_own_names(path)


def served_modules(path: Path) -> dict[str, str]:
    """The names by which vLLM finds the layers that an adapter may change, by those in memory.

    Raises ModelError where it finds one by none.
    """
    skeleton = load_skeleton(path, "bfloat16")
    names, prefix = without_values(weight_files(path)).keys(), f"{skeleton.base_model_prefix}."
    served: dict[str, str] = {}
    for module in target_modules(skeleton, LoraSpec(rank=1, alpha_scale=1.0)):
        in_parts = module.replace(_OWN, _IN_PARTS, 1) if module.startswith(_OWN) else module
        if _is_in(names, f"{module}.weight", prefix):
            served[module] = module
        elif f"{in_parts}.weight" in names:
            served[module] = in_parts
        else:
            raise ModelError(
                f"vLLM serves adapters on layers by the names that they have in a model's files; expected "
                f"{module}.weight in {path}, found other names: {_instead(skeleton.config.model_type)}"
            )
    return served


def _require_own_names(path: Path) -> None:
    """A version of all weights has the names in memory, and vLLM reads those of files. Raises ModelError."""
    skeleton = load_skeleton(path, "bfloat16")
    names, prefix = without_values(weight_files(path)).keys(), f"{skeleton.base_model_prefix}."
    tied = {own for alias, own in tied_names(skeleton).items() if alias in names}
    others = [name for name, _ in skeleton.named_parameters() if not (name in tied or _is_in(names, name, prefix))]
    if others:
        raise ModelError(
            f"vLLM reads versions of all weights by the names that they have in a model's files; expected "
            f'{few(sorted(others))} in {path}, found other names: set run.weights = "lora", or '
            f"{_instead(skeleton.config.model_type)}"
        )


def _is_in(names: Collection[str], name: str, prefix: str) -> bool:
    """A file may leave out the prefix of the body."""
    return name in names or name.removeprefix(prefix) in names


def _instead(kind: str) -> str:
    return f"choose another model, this one is of type {kind}"
