import json
import math
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from shared.errors import ModelError
from shared.modeling.adapters import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    LoraSpec,
    adapter_tensors,
    attach_lora,
    checksum,
    load_adapter,
    merge_adapter,
    merged_parameters,
    save_adapter,
    set_adapter_tensors,
)
from shared.modeling.checksums import file_checksum
from shared.modeling.loading import load_model

pytestmark = pytest.mark.model
SPEC = LoraSpec(rank=4, alpha_scale=2.0, first_layer=1)
IDS = torch.arange(40).view(2, 20)


@pytest.fixture
def model(tiny_dir: Path) -> PreTrainedModel:
    return load_model(tiny_dir, "float32")


def trained(model: PreTrainedModel, spec: LoraSpec = SPEC) -> dict[str, Tensor]:
    """An adapter of the model's shapes whose B is not 0."""
    generator = torch.Generator().manual_seed(1)
    start = adapter_tensors(attach_lora(model, spec, seed=0))
    return {name: torch.randn(tensor.shape, generator=generator) * 0.1 for name, tensor in start.items()}


def logits(model: torch.nn.Module) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=IDS).logits
    return found


def test_an_attached_adapter_starts_as_the_base_model_in_fp32(tiny_dir: Path) -> None:
    model = load_model(tiny_dir, "bfloat16")
    before = logits(model)
    peft = attach_lora(model, SPEC, seed=3)
    assert torch.equal(logits(peft), before)
    tensors = adapter_tensors(peft)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert len(tensors) == 2 * 7 and all("layers.1." in name for name in tensors)


def test_an_adapter_in_the_models_type_starts_as_the_rounded_one(tiny_dir: Path) -> None:
    exact = adapter_tensors(attach_lora(load_model(tiny_dir, "bfloat16"), SPEC, seed=3))
    spec = LoraSpec(4, 2.0, first_layer=1, dtype="bfloat16")
    rounded = adapter_tensors(attach_lora(load_model(tiny_dir, "bfloat16"), spec, seed=3))
    assert rounded.keys() == exact.keys()
    for name, tensor in rounded.items():
        assert tensor.dtype == torch.bfloat16
        assert torch.equal(tensor, exact[name].to(torch.bfloat16))


def test_the_seed_alone_decides_the_start(tiny_dir: Path) -> None:
    def start(seed: int) -> str:
        return checksum(adapter_tensors(attach_lora(load_model(tiny_dir), SPEC, seed)))

    before = torch.random.get_rng_state()
    first = start(3)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(7)
    assert start(3) == first != start(4)


def test_adapters_come_back_as_they_were_saved(model: PreTrainedModel, tmp_path: Path) -> None:
    tensors = trained(model)
    save_adapter(tmp_path, tensors, SPEC, "tiny")
    loaded, spec = load_adapter(tmp_path)
    assert spec == SPEC
    assert checksum(loaded) == checksum(tensors) == file_checksum(tmp_path / WEIGHTS_FILE)


def test_bf16_is_kept_as_the_spec_says(model: PreTrainedModel, tmp_path: Path) -> None:
    spec = LoraSpec(rank=4, alpha_scale=0.5, first_layer=None, dtype="bfloat16")
    save_adapter(tmp_path, trained(model, spec), spec, "tiny")
    assert load_adapter(tmp_path)[1] == spec


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's own loading
def test_peft_merging_and_setting_give_the_same_model(model: PreTrainedModel, tiny_dir: Path, tmp_path: Path) -> None:
    tensors = trained(load_model(tiny_dir, "float32"))
    save_adapter(tmp_path, tensors, SPEC, "tiny")
    by_peft = logits(PeftModel.from_pretrained(load_model(tiny_dir, "float32"), tmp_path))
    attached = attach_lora(load_model(tiny_dir, "float32"), SPEC, seed=0)
    set_adapter_tensors(attached, tensors)
    untouched = logits(model)
    merge_adapter(model, tensors, SPEC)
    torch.testing.assert_close(logits(attached), by_peft)
    torch.testing.assert_close(logits(model), by_peft, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(untouched, by_peft, atol=1e-2)


def test_merged_parameters_leave_the_model_alone(model: PreTrainedModel) -> None:
    before = logits(model)
    merged = dict(merged_parameters(model, trained(load_model(Path(model.name_or_path), "float32")), SPEC))
    assert torch.equal(logits(model), before)
    assert len(merged) == 7


def _without_one(tensors: dict[str, Tensor]) -> None:
    del tensors[next(iter(tensors))]


def _nan(tensors: dict[str, Tensor]) -> None:
    next(iter(tensors.values()))[0, 0] = math.nan


def _other_rank(tensors: dict[str, Tensor]) -> None:
    name = next(iter(tensors))
    tensors[name] = torch.zeros(5, tensors[name].shape[1])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_without_one, r"lora_A and lora_B of linear layers in .*missing: \S*q_proj.lora_A.weight$"),
        (_nan, "finite"),
        (_other_rank, "ranks"),
    ],
)
def test_broken_adapters_are_refused(model: PreTrainedModel, tmp_path: Path, spoil, message: str) -> None:  # type: ignore[no-untyped-def]
    tensors = trained(model)
    save_adapter(tmp_path, tensors, SPEC, "tiny")
    spoil(tensors)
    save_file(tensors, tmp_path / WEIGHTS_FILE)
    with pytest.raises(ModelError, match=message):
        load_adapter(tmp_path)


def test_a_pickled_adapter_is_refused_with_what_to_do(model: PreTrainedModel, tmp_path: Path) -> None:
    save_adapter(tmp_path, trained(model), SPEC, "tiny")
    (tmp_path / WEIGHTS_FILE).rename(tmp_path / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"found adapter_model\.bin, which is not loaded .*: convert it"):
        load_adapter(tmp_path)


def test_an_adapter_of_another_base_is_refused(model: PreTrainedModel, tiny_dir: Path) -> None:
    tensors = trained(load_model(tiny_dir, "float32"))
    strangers = {name.replace("layers.1", "layers.7"): tensor for name, tensor in tensors.items()}
    with pytest.raises(ModelError, match="does not have"):
        merge_adapter(model, strangers, SPEC)
    wider = {name: torch.zeros(4, 33) if "q_proj.lora_A" in name else tensor for name, tensor in tensors.items()}
    with pytest.raises(ModelError, match="shape"):
        merge_adapter(model, wider, SPEC)


@pytest.mark.parametrize("change", [{"use_dora": True}, {"peft_type": "IA3"}, {"bias": "all"}])
def test_what_a_spec_cannot_express_is_refused(
    model: PreTrainedModel, tmp_path: Path, change: dict[str, object]
) -> None:
    save_adapter(tmp_path, trained(model), SPEC, "tiny")
    config = json.loads((tmp_path / CONFIG_FILE).read_text())
    (tmp_path / CONFIG_FILE).write_text(json.dumps(config | change))
    with pytest.raises(ModelError, match="LoRA"):
        load_adapter(tmp_path)


def test_pickled_adapters_are_not_read(tmp_path: Path) -> None:
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
    (tmp_path / CONFIG_FILE).write_text(json.dumps(config))
    (tmp_path / "adapter_model.bin").write_bytes(b"pickle")
    with pytest.raises(ModelError, match=r"adapter_model\.safetensors"):
        load_adapter(tmp_path)


def test_a_first_layer_beyond_the_model_is_refused(model: PreTrainedModel) -> None:
    with pytest.raises(ModelError, match="first_layer"):
        attach_lora(model, LoraSpec(rank=4, alpha_scale=1.0, first_layer=2), seed=0)
