"""An export holds the very weights that the student's engine computes with, and whatever makes it answer alike."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, GenerationConfig, Qwen3_5ForConditionalGeneration

from services.student.engines.transformers import TransformersEngine
from shared.contracts.messages import Sampling
from shared.contracts.weights import WeightsManifest
from shared.errors import ModelError
from shared.modeling.adapters import LoraSpec, adapter_tensors, attach_lora, load_adapter, merge_adapter, save_adapter
from shared.modeling.chat import rendered, rendering_of
from shared.modeling.exporting import Release, write_adapter, write_model
from shared.modeling.loading import load_model, load_tokenizer
from tests.fakes.architectures import tiny_config_of_parts

pytestmark = pytest.mark.model
SAMPLING = Sampling(temperature=0.6, top_p=0.9, max_tokens=40)
SPEC = LoraSpec(rank=2, alpha_scale=2.0)


def manifest(kind: str, *names: str) -> WeightsManifest:
    fields: dict[str, object] = {"run": "r", "student": "a", "version": "a@v1", "parent": None, "step": 1}
    files = [{"name": name, "sha256": "", "bytes": 0} for name in names]
    rest = {"batch_sha256": None, "base_model": "", "checksum": "", "probe": (), "kind": kind, "files": files}
    return WeightsManifest.model_validate(fields | rest)


@pytest.fixture
def adapter(tmp_path: Path, tiny_dir: Path) -> tuple[Path, WeightsManifest]:
    generator = torch.Generator().manual_seed(1)
    start = adapter_tensors(attach_lora(load_model(tiny_dir, "float32"), SPEC, seed=0))
    tensors = {name: torch.randn(each.shape, generator=generator) * 0.3 for name, each in start.items()}
    (tmp_path / "adapter").mkdir()
    save_adapter(tmp_path / "adapter", tensors, SPEC, "base")
    return tmp_path / "adapter", manifest("lora", "adapter_model.safetensors", "adapter_config.json")


@pytest.fixture
def whole(tmp_path: Path, tiny_dir: Path) -> tuple[Path, WeightsManifest]:
    (tmp_path / "whole").mkdir()
    tensors = {name: tensor + 0.5 for name, tensor in load_file(tiny_dir / "model.safetensors").items()}
    save_file(tensors, tmp_path / "whole" / "model.safetensors")
    return tmp_path / "whole", manifest("full", "model.safetensors")


def written(
    tmp_path: Path, base: Path, published: tuple[Path, WeightsManifest] | None, template: str | None = "compact"
) -> Path:
    target = tmp_path / "out"
    target.mkdir()
    write_model(Release(base, published, "bfloat16", template, SAMPLING), target)
    return target


@pytest.mark.parametrize("kind", ["adapter", "whole"])
def test_weights_are_bit_for_bit_those_of_the_engine(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, tiny_dir: Path
) -> None:
    directory, told = request.getfixturevalue(kind)
    exported = load_file(written(tmp_path, tiny_dir, (directory, told)) / "model.safetensors")
    engine = TransformersEngine(tiny_dir, "compact", "bfloat16", slots=1, threads=1)
    engine.load("a@v1", directory)
    changed = engine._versions["a@v1"].weights
    base = load_file(tiny_dir / "model.safetensors")
    assert exported.keys() == base.keys()
    for name, tensor in exported.items():
        held = changed.get(name, base[name])
        assert torch.equal(tensor, held.to_dense() if held.is_mkldnn else held), name
    assert any(not torch.equal(exported[name], base[name]) for name in base)


def test_the_base_itself_is_exported_as_it_is(tmp_path: Path, tiny_dir: Path) -> None:
    exported, base = (load_file(place / "model.safetensors") for place in (written(tmp_path, tiny_dir, None), tiny_dir))
    assert exported.keys() == base.keys()
    assert all(torch.equal(exported[name], base[name]) for name in base)


def test_prompts_are_those_of_the_run(tmp_path: Path, tiny_dir: Path) -> None:
    own = tmp_path / "own"
    shutil.copytree(tiny_dir, own)
    settings = own / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"chat_template": "another"}))
    target = written(tmp_path, own, None)
    assert rendering_of(load_tokenizer(target, None)) == rendering_of(load_tokenizer(own, "compact"))
    assert "chat_template" not in json.loads((target / "tokenizer_config.json").read_text())


def test_without_a_template_of_ours_the_tokenizer_stays_byte_for_byte(tmp_path: Path, tiny_dir: Path) -> None:
    target = written(tmp_path, tiny_dir, None, template=None)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (target / name).read_bytes() == (tiny_dir / name).read_bytes()


def test_it_ends_where_the_student_ends_and_is_sampled_as_it_was_scored(tmp_path: Path, tiny_dir: Path) -> None:
    own = tmp_path / "own"
    shutil.copytree(tiny_dir, own)
    GenerationConfig(eos_token_id=[10], top_k=20, repetition_penalty=1.1, do_sample=True).save_pretrained(own)
    found = GenerationConfig.from_pretrained(written(tmp_path, own, None))
    assert found.eos_token_id == [10, 257]
    assert (found.do_sample, found.temperature, found.top_p, found.top_k) == (True, 0.6, 0.9, 0)
    assert (found.repetition_penalty, found.max_new_tokens) == (None, None)


def test_greedy_scores_make_a_greedy_default(tmp_path: Path, tiny_dir: Path) -> None:
    greedy = Sampling(temperature=0, top_p=1, max_tokens=40)
    (tmp_path / "out").mkdir()
    write_model(Release(tiny_dir, None, "bfloat16", None, greedy), tmp_path / "out")
    found = GenerationConfig.from_pretrained(tmp_path / "out")
    # vLLM reads these and no `do_sample`; both then take the likeliest token.
    assert (found.do_sample, found.temperature, found.top_p, found.top_k) == (True, 1.0, 1.0, 1)


def test_an_adapter_of_a_model_of_parts_is_exported_merged_alone(
    tmp_path: Path, adapter: tuple[Path, WeightsManifest]
) -> None:
    base = tmp_path / "parts"
    Qwen3_5ForConditionalGeneration(tiny_config_of_parts("qwen3_5", 24)).save_pretrained(base)
    with pytest.raises(ModelError, match=r"under different names, .* export it as a whole model"):
        write_adapter(Release(base, adapter, "bfloat16", None, SAMPLING), tmp_path, "owner/base")


THINKING = (
    "{% for m in messages %}{{ m.content }}{% endfor %}A:{% if enable_thinking is defined and not enable_thinking %}"
    "<think></think>{% endif %}"
)


@pytest.mark.parametrize("kind", ["model", "adapter"])
def test_who_says_nothing_of_thinking_gets_the_prompts_of_the_run(
    tmp_path: Path, tiny_dir: Path, adapter: tuple[Path, WeightsManifest], kind: str
) -> None:
    base, out = tmp_path / "thinks", tmp_path / "out"
    shutil.copytree(tiny_dir, base)
    (base / "chat_template.jinja").write_text(THINKING)
    out.mkdir()
    release = Release(base, adapter, "bfloat16", None, SAMPLING)
    if kind == "model":
        write_model(release, out)
    else:
        write_adapter(release, out, "owner/base")
    exported = AutoTokenizer.from_pretrained(out, trust_remote_code=False)
    asked = [{"role": "user", "content": "Why?"}]
    untold = exported.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    assert untold == rendered(load_tokenizer(base, None), asked) == "Why?A:<think></think>"
    told = exported.apply_chat_template(asked, tokenize=False, add_generation_prompt=True, enable_thinking=True)
    assert told == "Why?A:"


def test_the_date_is_that_of_the_run(tmp_path: Path, tiny_dir: Path) -> None:
    base = tmp_path / "dated"
    shutil.copytree(tiny_dir, base)
    (base / "chat_template.jinja").write_text("{{ strftime_now('%Y') }} {{ messages[0].content }}")
    exported = AutoTokenizer.from_pretrained(written(tmp_path, base, None, None), trust_remote_code=False)
    asked = [{"role": "user", "content": "Why?"}]
    assert exported.apply_chat_template(asked, tokenize=False) == "2024 Why?"


def test_what_rounding_makes_of_a_change_is_told(tmp_path: Path, tiny_dir: Path) -> None:
    """Of bfloat16's eight bits of a weight a change of less than a 256th of it keeps little."""
    tensors = adapter_tensors(attach_lora(load_model(tiny_dir, "float32"), SPEC, seed=0))
    found = {}
    for scale in (0.3, 1e-3):
        changed = {name: each + scale * torch.ones_like(each) * ("lora_B" in name) for name, each in tensors.items()}
        place = tmp_path / str(scale)
        place.mkdir()
        save_adapter(place, changed, SPEC, "base")
        for dtype in ("bfloat16", "float32"):
            found[scale, dtype] = merge_adapter(load_model(tiny_dir, dtype), *load_adapter(place))
    assert found[0.3, "float32"] < found[1e-3, "float32"] < 1e-3
    assert 1e-4 < found[0.3, "bfloat16"] < 0.1 < found[1e-3, "bfloat16"]


def test_an_adapter_brings_no_model_beside_it(
    tmp_path: Path, tiny_dir: Path, adapter: tuple[Path, WeightsManifest], whole: tuple[Path, WeightsManifest]
) -> None:
    target = tmp_path / "out"
    target.mkdir()
    write_adapter(Release(tiny_dir, adapter, "bfloat16", "compact", SAMPLING), target, "owner/base")
    assert json.loads((target / "adapter_config.json").read_text())["base_model_name_or_path"] == "owner/base"
    names = {path.name for path in target.iterdir()}
    assert {"adapter_model.safetensors", "tokenizer.json", "chat_template.jinja"} <= names
    assert not {"config.json", "model.safetensors"} & names
    # A server of its base takes the base's own unless it is given this one.
    assert GenerationConfig.from_pretrained(target).temperature == SAMPLING.temperature
    with pytest.raises(ModelError, match="whole model"):
        write_adapter(Release(tiny_dir, whole, "bfloat16", "compact", SAMPLING), target, "owner/base")
