"""A student that was tuned with LoRA already: its adapter is merged first, so training starts at what it is."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from services.trainer.model.model import StudentModel
from services.trainer.model.teacher import EmaTeacher
from services.trainer.model.trained import TrainedAdapter
from shared.errors import ModelError, UnavailableError
from shared.modeling import resolving
from shared.modeling.adapters import (
    LoraSpec,
    adapter_tensors,
    attach_lora,
    load_adapter,
    save_adapter,
    set_adapter_tensors,
)
from shared.modeling.loading import load_model, load_tokenizer
from shared.modeling.resolving import find_model, merged_directory, resolve_model
from tests.unit.modeling.tiny_model import write_tiny_model

pytestmark = pytest.mark.model
SPEC = LoraSpec(rank=2, alpha_scale=2.0)
IDS = torch.tensor([[5, 80, 17, 33, 200]])


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Its weights in fp32, so that the merge is exact to rounding."""
    directory = write_tiny_model(tmp_path / "base")
    load_model(directory, "float32").save_pretrained(directory)
    return directory


@pytest.fixture
def tuned(tmp_path: Path, base: Path) -> Path:
    """An adapter that is far from zero."""
    return write_adapter(tmp_path / "tuned", base)


def write_adapter(directory: Path, base: Path) -> Path:
    generator = torch.Generator().manual_seed(1)
    start = adapter_tensors(attach_lora(load_model(base, "float32"), SPEC, seed=0))
    directory.mkdir()
    tensors = {name: torch.randn(each.shape, generator=generator) * 0.3 for name, each in start.items()}
    save_adapter(directory, tensors, SPEC, str(base))
    return directory


def change_config(adapter: Path, **changes: object) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def logits(model: torch.nn.Module) -> Tensor:
    mask = torch.zeros(1, 1, IDS.shape[1], IDS.shape[1]).masked_fill(
        torch.ones(IDS.shape[1], IDS.shape[1]).triu(1).bool(), torch.finfo(torch.float32).min
    )
    with torch.no_grad():
        found: Tensor = model(input_ids=IDS, attention_mask=mask).logits
    return found


def test_an_adapter_stands_for_its_base_with_it_merged_in(tuned: Path, base: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert find_model(str(tuned), cache) is None
    merged = resolve_model(str(tuned), cache)
    beside = attach_lora(load_model(base, "float32"), SPEC, seed=0)
    set_adapter_tensors(beside, load_adapter(tuned)[0])
    expected = logits(beside)
    found = logits(load_model(merged, "float32"))
    assert torch.allclose(found, expected, atol=1e-4)
    assert not torch.allclose(found, logits(load_model(base, "float32")), atol=0.1)
    assert load_tokenizer(merged, None).chat_template == load_tokenizer(base, None).chat_template
    assert not (merged / "adapter_config.json").exists()


def test_it_is_merged_once_and_again_when_the_adapter_changes(tuned: Path, base: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    merged = resolve_model(str(tuned), cache)
    before = (merged / "config.json").stat().st_mtime_ns
    assert find_model(str(tuned), cache) == resolve_model(str(tuned), cache) == merged
    assert (merged / "config.json").stat().st_mtime_ns == before
    other = write_adapter(tmp_path / "other", base)
    change_config(other, lora_alpha=8)
    assert resolve_model(str(other), cache) != merged


def test_training_and_its_teacher_start_at_the_tuned_model(tuned: Path, tmp_path: Path) -> None:
    merged = resolve_model(str(tuned), tmp_path / "cache")
    expected = logits(load_model(merged, "float32"))
    model = StudentModel(TrainedAdapter(load_model(merged, "float32"), SPEC, seed=3))
    teacher = EmaTeacher(model, 0.05).tensors()
    assert torch.allclose(logits(model.network), expected, atol=1e-5)
    assert all(torch.equal(teacher[name], each) for name, each in model.named_parameters.items())


def test_the_adapters_own_template_takes_the_place_of_the_bases(tuned: Path, base: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(base, "compact")
    tokenizer.save_pretrained(tuned)
    merged = resolve_model(str(tuned), tmp_path / "cache")
    assert load_tokenizer(merged, None).chat_template == tokenizer.chat_template


@pytest.mark.parametrize(
    ("named", "says"),
    [
        (None, "expected base_model_name_or_path"),
        (
            "no such model",
            r"needs its base model, 'no such model'.* elsewhere, name that as base_model_name_or_path in",
        ),
        ("a\0b", r"needs its base model, 'a\\x00b'"),
        ("itself", "names itself"),
        ("another", "shape of model.layers"),
    ],
)
def test_an_adapter_without_a_base_that_fits_is_refused(
    named: str | None, says: str, tuned: Path, tmp_path: Path
) -> None:
    names = {"itself": str(tuned), "another": str(narrower(tmp_path / "narrower"))}
    change_config(tuned, base_model_name_or_path=names.get(str(named), named))
    with pytest.raises(ModelError, match=says):
        resolve_model(str(tuned), tmp_path / "cache")
    if "needs its base" in says:
        with pytest.raises(ModelError, match=says):
            find_model(str(tuned), tmp_path / "cache")


def test_an_adapter_whose_base_cannot_be_fetched_is_told_with_it(
    tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unanswered(*_: object) -> Path:
        raise UnavailableError("the hub does not answer")

    change_config(tuned, base_model_name_or_path="somebody/base")
    monkeypatch.setattr(resolving, "fetch", unanswered)
    with pytest.raises(UnavailableError, match=r"tuned needs its base model, 'somebody/base': the hub does not answer"):
        resolve_model(str(tuned), tmp_path / "cache")


def test_of_several_templates_the_default_one_is_taken(base: Path) -> None:
    (base / "chat_template.jinja").unlink()
    file = base / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    named = {"default": "{{ strftime_now('%Y') }}{{ messages[0].content }}", "tool_use": "x"}
    settings["chat_template"] = [{"name": name, "template": text} for name, text in named.items()]
    file.write_text(json.dumps(settings))
    assert load_tokenizer(base, None).chat_template == '{{ "2024" }}{{ messages[0].content }}'
    del settings["chat_template"][0]
    file.write_text(json.dumps(settings))
    with pytest.raises(ModelError, match=r"named 'default' .*, which has tool_use: set one of ours"):
        load_tokenizer(base, None)


def narrower(directory: Path) -> Path:
    """A model that is like the tiny one, with a narrower MLP."""
    from transformers import AutoConfig, LlamaForCausalLM

    write_tiny_model(directory)
    config = AutoConfig.from_pretrained(directory, trust_remote_code=False)
    config.intermediate_size = 48
    LlamaForCausalLM(config).save_pretrained(directory)
    return directory


def test_another_template_beside_the_same_tensors_is_another_model(tuned: Path, base: Path, tmp_path: Path) -> None:
    before = merged_directory(tuned, base, tmp_path)
    (tuned / "chat_template.jinja").write_text("{{ messages[0].content }}")
    of_the_adapter = merged_directory(tuned, base, tmp_path)
    (base / "generation_config.json").write_text('{"eos_token_id": 7}')
    assert len({before, of_the_adapter, merged_directory(tuned, base, tmp_path)}) == 3


def test_an_adapter_that_names_itself_is_refused_also_when_it_is_only_looked_for(tuned: Path, tmp_path: Path) -> None:
    change_config(tuned, base_model_name_or_path=str(tuned))
    for look in (find_model, resolve_model):
        with pytest.raises(ModelError, match="names itself as its base model"):
            look(str(tuned), tmp_path)


def test_a_config_of_the_base_beside_an_adapter_makes_it_no_model(tuned: Path, base: Path, tmp_path: Path) -> None:
    expected = resolve_model(str(tuned), tmp_path / "cache")
    shutil.copyfile(base / "config.json", tuned / "config.json")
    merged = resolve_model(str(tuned), tmp_path / "cache")
    before, after = (load_model(path).state_dict() for path in (expected, merged))
    assert all(torch.equal(before[name], after[name]) for name in before | after)


def test_an_adapter_beside_the_weights_of_a_model_is_refused(tuned: Path, base: Path, tmp_path: Path) -> None:
    """Which of them is meant is not to be guessed, and transformers would put one into the other."""
    shutil.copytree(base, tuned, dirs_exist_ok=True)
    for look in (find_model, resolve_model, lambda name, _: load_model(Path(name))):
        with pytest.raises(ModelError, match=r"found both config\.json with weights and adapter_config\.json"):
            look(str(tuned), tmp_path / "cache")


def test_an_adapter_on_a_base_that_is_no_model_says_so(tuned: Path, base: Path, tmp_path: Path) -> None:
    (base / "config.json").write_text("[]")
    with pytest.raises(ModelError, match=r"expected a JSON object in .*config\.json, got \[\]"):
        resolve_model(str(tuned), tmp_path / "cache")


@pytest.mark.parametrize("text", ["[]", "null", "{"])
def test_a_configuration_that_is_no_object_names_no_base(text: str, tuned: Path, tmp_path: Path) -> None:
    (tuned / "adapter_config.json").write_text(text)
    with pytest.raises(ModelError, match="expected a JSON object in"):
        resolve_model(str(tuned), tmp_path / "cache")


@pytest.mark.parametrize("look", [find_model, resolve_model])
def test_an_adapter_that_cannot_be_merged_is_refused_before_its_base_is_looked_for(
    look: Callable[[str, Path], object], tuned: Path, tmp_path: Path
) -> None:
    change_config(tuned, use_dora=True, base_model_name_or_path="no such model")
    with pytest.raises(ModelError, match="got use_dora = true"):
        look(str(tuned), tmp_path / "cache")
