"""Every option of a PEFT adapter: merged it gives PEFT's own logits, or the option is refused by its name."""

import dataclasses
import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from shared.errors import ModelError
from shared.modeling.adapters import CONFIG_FILE, WEIGHTS_FILE, load_adapter, merge_adapter
from shared.modeling.loading import load_model
from shared.modeling.plain_lora import PlainLora, read_plain_lora

pytestmark = [
    pytest.mark.model,
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
]
IDS = torch.arange(40).view(2, 20)

SAME: dict[str, dict[str, object]] = {
    "plain": {},
    "rslora": {"use_rslora": True, "r": 8},
    "alpha that is no multiple of the rank": {"lora_alpha": 3.5},
    "some layers": {"layers_to_transform": [1]},
    "one layer": {"layers_to_transform": 1, "layers_pattern": "layers"},
    "a pattern": {"target_modules": r".*\.mlp\..*_proj"},
    "all linear": {"target_modules": "all-linear"},
    "excluded": {"exclude_modules": ["up_proj"]},
    "fan in, fan out": {"fan_in_fan_out": True},
    "gaussian": {"init_lora_weights": "gaussian"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "not initialised": {"init_lora_weights": False},
    "mica": {"init_lora_weights": "mica"},
    "eva": {"init_lora_weights": "eva"},
    "dropout": {"lora_dropout": 0.5},
    "the newest revision": {"revision": "main"},
}
"""Options of an adapter of which nothing is lost."""

REFUSED: dict[str, object] = {
    "alora_invocation_tokens": [1, 2],
    "arrow_config": {"top_k": 2},
    "bias": "all",
    "ensure_weight_tying": True,
    "init_lora_weights": "pissa",
    "kasa_config": {"beta": 1e-4},
    "layer_replication": [[0, 2], [0, 2]],
    "lora_bias": True,
    "lora_ga_config": {"scale": "stable"},
    "megatron_config": {"tensor_model_parallel_size": 1},
    "modules_to_save": ["lm_head"],
    "monteclora_config": {"num_samples": 2},
    "rank_pattern": {"q_proj": 2},
    "alpha_pattern": {"q_proj": 2},
    "revision": "older",
    "target_parameters": ["experts.weight"],
    "trainable_token_indices": [3],
    "use_bdlora": {"nblocks": 2},
    "use_dora": True,
    "use_qalora": True,
    "velora_config": {"num_groups": 2},
}
"""Options that an adapter may have, with a value that makes it more than A and B."""


def logits(model: torch.nn.Module) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=IDS).logits
    return found


def write_adapter(directory: Path, base: Path, **options: object) -> Path:
    """As PEFT saves it, with tensors that are far from zero."""
    config = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "up_proj"], "task_type": "CAUSAL_LM"} | options
    untrained = LoraConfig(**config | {"init_lora_weights": True})
    model = get_peft_model(load_model(base, "float32"), untrained)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, each in model.named_parameters():
            if "lora_" in name:
                each.copy_(torch.randn(each.shape, generator=generator) * 0.3)
    model.save_pretrained(directory, save_embedding_layers=False)
    return change(directory, **options)


def change(adapter: Path, **options: object) -> Path:
    file = adapter / CONFIG_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | options))
    return adapter


@pytest.fixture
def plain(tiny_dir: Path, tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "plain", tiny_dir)


@pytest.mark.parametrize("options", SAME.values(), ids=SAME)
def test_what_is_read_gives_the_logits_that_peft_gives(
    options: dict[str, object], tiny_dir: Path, tmp_path: Path
) -> None:
    adapter = write_adapter(tmp_path / "adapter", tiny_dir, **options)
    with torch.random.fork_rng(devices=[]):
        expected = logits(PeftModel.from_pretrained(load_model(tiny_dir, "float32"), adapter))
    model = load_model(tiny_dir, "float32")
    before = logits(model)
    merge_adapter(model, *load_adapter(adapter))
    torch.testing.assert_close(logits(model), expected, atol=1e-3, rtol=1e-3)
    assert not torch.allclose(before, expected, atol=0.1)


@pytest.mark.parametrize("mixed", [False, True])
def test_somebody_elses_may_be_in_half_precision_or_of_two(plain: Path, tiny_dir: Path, *, mixed: bool) -> None:
    exact, _ = load_adapter(plain)
    half = {
        name: tensor.half() if not mixed or "lora_A" in name else tensor.bfloat16() for name, tensor in exact.items()
    }
    save_file(half, plain / WEIGHTS_FILE, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="expected tensors of one dtype"):
        load_adapter(plain)
    merged, expected = load_model(tiny_dir, "float32"), load_model(tiny_dir, "float32")
    tensors, spec = load_adapter(plain, brought=True)
    assert spec.dtype == "float32"
    merge_adapter(merged, tensors, spec)
    merge_adapter(expected, exact, spec)
    torch.testing.assert_close(logits(merged), logits(expected), atol=0.05, rtol=0.05)


@pytest.mark.parametrize(("option", "value"), REFUSED.items(), ids=REFUSED)
def test_an_option_that_changes_more_is_refused_by_its_name(option: str, value: object, plain: Path) -> None:
    with pytest.raises(ModelError, match=rf"{CONFIG_FILE}: expected plain LoRA.*got {option} = .*merge_and_unload"):
        read_plain_lora(change(plain, **{option: value}))


@pytest.mark.parametrize(
    "start", ["pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga", "Olora", "one of tomorrow"]
)
def test_an_adapter_that_took_something_out_of_its_base_is_refused(start: str, plain: Path) -> None:
    with pytest.raises(ModelError, match=f'init_lora_weights = "{start}"'):
        load_adapter(change(plain, init_lora_weights=start))


def test_an_option_that_is_not_known_yet_is_refused_unless_it_is_off(plain: Path) -> None:
    off: list[object] = [None, False, {}, [], 0, ""]
    for number, value in enumerate(off):
        load_adapter(change(plain, **{f"option_{number}": value}))
    with pytest.raises(ModelError, match="got use_of_tomorrow = true"):
        load_adapter(change(plain, use_of_tomorrow=True))


def test_every_option_of_peft_is_in_one_of_the_tables() -> None:
    without_effect = {"corda_config", "eva_config", "loftq_config", "megatron_core", "qalora_group_size"}
    without_effect |= {"auto_mapping", "inference_mode", "peft_version", "runtime_config"}
    known = {*REFUSED, *without_effect, *PlainLora.model_fields, *(name for each in SAME.values() for name in each)}
    assert {field.name for field in dataclasses.fields(LoraConfig)} - known == {"task_type"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"r": 0}, "r: .*greater than or equal to 1, got 0"),
        ({"r": None}, "r: .*valid integer, got null"),
        ({"r": [4]}, "r: .*valid integer, got "),
        ({"r": "4"}, 'r: .*valid integer, got "4"'),
        ({"r": True}, "r: .*valid integer, got true"),
        ({"lora_alpha": None}, "lora_alpha: .*valid number, got null"),
        ({"lora_alpha": "8"}, "lora_alpha: .*valid number"),
        ({"lora_alpha": float("inf")}, "lora_alpha: .*finite"),
        ({"target_modules": None}, "target_modules: .*got null"),
        ({"target_modules": {"q_proj": 1}}, "target_modules: .*valid string"),
        ({"layers_to_transform": "1"}, "layers_to_transform: .*valid integer"),
        ({"layers_to_transform": [1, None]}, "layers_to_transform: .*"),
        ({"use_rslora": "yes"}, "use_rslora: .*valid boolean"),
        ({"bias": False}, "bias: .*valid string"),
        ({"peft_type": None}, "peft_type: .*valid string"),
        ({"peft_type": "LOHA"}, 'expected plain LoRA.*peft_type = "LOHA"'),
        ({"target_modules": ["q_proj"], "layers_pattern": "layers"}, "target modules in adapter_config.json"),
    ],
)
def test_a_field_of_another_type_is_refused_by_its_name(changes: dict[str, object], says: str, plain: Path) -> None:
    with pytest.raises(ModelError, match=says) as refused:
        load_adapter(change(plain, **changes))
    assert str(plain) in str(refused.value) and len(str(refused.value)) < 500


@pytest.mark.parametrize("text", ["[]", "null", "3", "{", "\ud800".encode("utf-8", "surrogatepass"), "[" * 100_000])
def test_a_configuration_that_is_no_object_is_refused(text: str | bytes, plain: Path) -> None:
    (plain / CONFIG_FILE).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ModelError, match=f"expected a JSON object in .*{CONFIG_FILE}"):
        load_adapter(plain)


def _without_fields(adapter: Path) -> None:
    (adapter / CONFIG_FILE).write_text('{"peft_type": "LORA"}')


def _only_some_modules(adapter: Path) -> None:
    change(adapter, target_modules=["q_proj"])


def _only_one_layer(adapter: Path) -> None:
    change(adapter, layers_to_transform=[1])


def _excluding(adapter: Path) -> None:
    change(adapter, exclude_modules=["up_proj"])


def _with_an_embedding(adapter: Path) -> None:
    tensors = load_file(adapter / WEIGHTS_FILE)
    sides = {f"base_model.model.model.embed_tokens.lora_embedding_{side}": torch.ones(4, 4) for side in "AB"}
    save_file(tensors | sides, adapter / WEIGHTS_FILE)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_without_fields, "r: Field required, got nothing"),
        (_only_some_modules, r"only of the modules that .*others of model\.layers\.0\.mlp\.up_proj, model\.layers\.1"),
        (_only_one_layer, r"only of the modules that .*others of model\.layers\.0\.mlp\.up_proj, model"),
        (_excluding, r"only of the modules that .*others of model\.layers\.0\.mlp\.up_proj"),
        (
            _with_an_embedding,
            r"linear layers in .*others: \S*embed_tokens.lora_embedding_A, \S*lora_embedding_B; merge it into",
        ),
    ],
)
def test_tensors_that_the_configuration_does_not_account_for_are_refused(
    spoil: Callable[[Path], None], says: str, plain: Path
) -> None:
    spoil(plain)
    with pytest.raises(ModelError, match=says) as refused:
        load_adapter(plain)
    assert len(str(refused.value)) < 600


def test_an_output_layer_that_is_the_embedding_is_not_changed(tiny_dir: Path, tmp_path: Path) -> None:
    """Merged, it would change what the model reads as well."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapter = write_adapter(tmp_path / "adapter", tiny_dir, target_modules=["lm_head"])
    with pytest.raises(ModelError, match="lm_head, whose weight the base model ties"):
        merge_adapter(load_model(tiny_dir, "float32"), *load_adapter(adapter))


def test_only_linear_layers_are_changed(plain: Path) -> None:
    """A Conv1D holds its weight the other way round: a square one would take the change as well."""
    from transformers.pytorch_utils import Conv1D

    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q_proj = Conv1D(8, 8)

    shapes = {"A": (4, 8), "B": (8, 4)}
    tensors = {f"base_model.model.q_proj.lora_{side}.weight": torch.ones(shape) for side, shape in shapes.items()}
    with pytest.raises(ModelError, match="q_proj: expected a linear layer, the base has Conv1D"):
        merge_adapter(Block(), tensors, load_adapter(plain)[1])
