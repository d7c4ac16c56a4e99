"""What the configuration of a PEFT adapter says, where the adapter is A and B on the base model as it is.

What always holds: what is read means here what it means to PEFT. Every option that would change more than B @ A, also
one that is not known here, is refused by its name.
"""

import math
from collections.abc import Iterable
from pathlib import Path

from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.errors import ModelError
from shared.modeling.directory import ADAPTER_CONFIG, few, read_object, reading, shown_json

# Values of init_lora_weights that draw A and B only. The others take something out of the base weights first.
_BASE_UNTOUCHED = (None, True, False, "gaussian", "orthogonal", "eva", "mica")

# Options that say where an adapter comes from, or how it was trained, or that do nothing without another one.
_NO_EFFECT = frozenset(
    {
        "auto_mapping",
        "corda_config",
        "eva_config",
        "fan_in_fan_out",  # only linear layers are changed, for which PEFT sets it back
        "inference_mode",
        "loftq_config",
        "lora_dropout",
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "runtime_config",
        "task_type",
    }
)

_THE_NEWEST = ("revision", "main")
"""The base as it is when nothing is said of it."""

MERGE_IT = "merge it into its base with PEFT (merge_and_unload) and name the merged model"

Names = str | list[str]


class PlainLora(BaseModel):
    """The fields of an adapter_config.json that count; all others are in `model_extra`."""

    model_config = ConfigDict(frozen=True, strict=True, extra="allow")

    peft_type: str
    r: int = Field(ge=1)
    lora_alpha: float = Field(allow_inf_nan=False)
    base_model_name_or_path: str | None = None
    target_modules: Names
    exclude_modules: Names | None = None
    layers_to_transform: int | list[int] | None = None
    layers_pattern: Names | None = None
    use_rslora: bool | None = None
    bias: str | None = None
    init_lora_weights: bool | str | None = None

    @property
    def alpha_scale(self) -> float:
        """The factor of B @ A."""
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)

    @property
    def first_layer(self) -> int | None:
        """The lowest block that is changed, where the configuration says which are and it is not the model's first."""
        blocks = self.layers_to_transform
        return min([blocks] if isinstance(blocks, int) else blocks or [0]) or None


def read_plain_lora(directory: Path) -> PlainLora:
    """Raises ModelError where there is none, or the adapter is more than plain LoRA."""
    file = directory / ADAPTER_CONFIG
    try:
        found = PlainLora.model_validate(read_object(file))
    except ValidationError as error:
        first = error.errors()[0]
        got = "nothing" if first["type"] == "missing" else shown_json(first["input"])
        raise ModelError(f"{file}: {first['loc'][0]}: {first['msg']}, got {got}") from error
    if others := _beyond_plain(found):
        said = few([f"{name} = {shown_json(value)}" for name, value in sorted(others.items())])
        raise ModelError(f"{file}: expected plain LoRA, A and B on the base as it is, got {said}; {MERGE_IT}")
    return found


def _beyond_plain(config: PlainLora) -> dict[str, object]:
    """The options that make an adapter more than A and B."""
    unknown = (config.model_extra or {}).items()
    others: dict[str, object] = {name: value for name, value in unknown if value and name not in _NO_EFFECT}
    others = dict(each for each in others.items() if each != _THE_NEWEST)
    if config.peft_type != "LORA":
        others["peft_type"] = config.peft_type
    if config.bias not in (None, "none"):
        others["bias"] = config.bias
    if config.init_lora_weights not in _BASE_UNTOUCHED:
        others["init_lora_weights"] = config.init_lora_weights
    return others


def require_targets(config: PlainLora, modules: Iterable[str], directory: Path) -> None:
    """Raises ModelError where the adapter holds tensors of modules that its configuration does not name: PEFT would
    leave them out.
    """
    if config.target_modules == "all-linear":
        return
    named = config.model_dump(include={"target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"})
    with reading(f"target modules in {ADAPTER_CONFIG}", directory):
        # Matched by PEFT itself: what it would leave out is found, whatever its rules are.
        as_peft = LoraConfig(**named)
        others = [module for module in modules if not check_target_module_exists(as_peft, module)]
    if others:
        raise ModelError(
            f"expected tensors in {directory} only of the modules that its {ADAPTER_CONFIG} names (target_modules, "
            f"exclude_modules, layers_to_transform, layers_pattern), got others of {few(others)}"
        )
