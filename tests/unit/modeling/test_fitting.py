"""Files that do not make one model: each fault is refused by name, by what loads them and by what only looks."""

import io
import json
import shutil
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, Qwen3Config, Qwen3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from shared.errors import ModelError
from shared.modeling.directory import INDEX_FILE, SINGLE_FILE
from shared.modeling.embedded import convert_model
from shared.modeling.fitting import refuse_others
from shared.modeling.loading import (
    check_model,
    check_weights,
    generation_config,
    load_model,
    load_tokenizer,
    vocabulary_size,
)

pytestmark = pytest.mark.model
NORM = "model.norm.weight"
QUERY = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def model_dir(tiny_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_dir, tmp_path / "model"))


def change_weights(directory: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(directory / SINGLE_FILE)
    change(tensors)
    save_file(tensors, directory / SINGLE_FILE, metadata={"format": "pt"})


def change_json(file: Path, **fields: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


WEIGHTS: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "missing": (lambda tensors: tensors.pop(NORM), rf"missing: {NORM}$"),
    "unexpected": (lambda tensors: tensors.update(extra=torch.ones(2)), r"unexpected: extra$"),
    "misshapen": (
        lambda tensors: tensors.update({QUERY: torch.ones(16, 32)}),
        rf"of another shape: {QUERY} \(16, 32\) where the config has \(32, 32\)$",
    ),
    "renamed": (lambda tensors: tensors.update(misnamed=tensors.pop(NORM)), rf"missing: {NORM}; unexpected: misnamed$"),
    "empty": (lambda tensors: tensors.clear(), r"missing: \S+, \S+, \S+ and 18 more$"),
    "embedding resized, config not": (
        lambda tensors: tensors.update({"model.embed_tokens.weight": torch.ones(260, 32)}),
        r"embed_tokens\.weight \(260, 32\) where the config has \(258, 32\)$",
    ),
}


@pytest.mark.parametrize(("change", "says"), WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize("look", [check_model, check_weights, load_model])
def test_weights_that_are_not_all_of_the_model_are_refused_by_name(
    look: Callable[[Path], object], change: Callable[[dict[str, Tensor]], object], says: str, model_dir: Path
) -> None:
    change_weights(model_dir, change)
    with pytest.raises(ModelError, match=says) as refused:
        look(model_dir)
    assert str(model_dir) in str(refused.value) and len(str(refused.value)) < 600


def test_a_refusal_is_not_told_twice(
    model_dir: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Transformers would print a table of what differs, and go on."""
    change_weights(model_dir, lambda tensors: tensors.pop(NORM))
    with pytest.raises(ModelError):
        check_model(model_dir)
    assert (caplog.text, *capsys.readouterr()) == ("", "", "")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("look", [check_weights, load_model])
def test_a_number_that_is_none_is_refused_by_its_tensor(
    look: Callable[[Path], object], value: float, model_dir: Path
) -> None:
    def spoil(tensors: dict[str, Tensor]) -> None:
        tensors[QUERY][3, 4] = value

    change_weights(model_dir, spoil)
    with pytest.raises(ModelError, match=rf"expected finite weights in .*{QUERY}"):
        look(model_dir)


def _output_layer_too(tensors: dict[str, Tensor]) -> None:
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()


def _old_buffers(tensors: dict[str, Tensor]) -> None:
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(2)


@pytest.mark.parametrize("change", [_output_layer_too, _old_buffers])
def test_what_transformers_does_without_is_no_fault(
    change: Callable[[dict[str, Tensor]], object], tiny_dir: Path, model_dir: Path
) -> None:
    """Copies of tied weights, and buffers that older versions saved."""
    change_weights(model_dir, change)
    check_weights(model_dir)
    before, after = (load_model(path).state_dict() for path in (tiny_dir, model_dir))
    assert all(torch.equal(before[name], after[name]) for name in before | after)


def test_an_output_layer_of_its_own_is_refused_where_the_config_says_that_it_is_the_embedding(model_dir: Path) -> None:
    def another(tensors: dict[str, Tensor]) -> None:
        _output_layer_too(tensors)
        tensors["lm_head.weight"][-1] += 1

    change_weights(model_dir, another)
    with pytest.raises(ModelError, match=r"expected lm_head\.weight in .* to be model\.embed_tokens\.weight, as"):
        check_model(model_dir)
    change_json(model_dir / "config.json", tie_word_embeddings=False)
    check_model(model_dir)


def test_a_model_in_several_files_fits_and_one_of_them_missing_is_named(tiny_dir: Path, model_dir: Path) -> None:
    (model_dir / SINGLE_FILE).unlink()
    load_model(tiny_dir).save_pretrained(model_dir, max_shard_size="10KB")
    assert (model_dir / INDEX_FILE).exists()
    check_weights(model_dir)
    lost = sorted(model_dir.glob("*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(ModelError, match=rf"{INDEX_FILE} names, found no {lost.name}"):
        load_model(model_dir)


SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}


def _qwen3() -> torch.nn.Module:
    return Qwen3ForCausalLM(Qwen3Config(**SIZES, tie_word_embeddings=False))


def _experts() -> torch.nn.Module:
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**SIZES, moe_intermediate_size=16, num_experts=4, num_experts_per_tok=2))


def _gpt2() -> torch.nn.Module:
    return GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4))


@pytest.mark.parametrize("make", [_qwen3, _experts, _gpt2])
def test_models_of_other_kinds_fit(make: Callable[[], torch.nn.Module], tmp_path: Path) -> None:
    """Untied, with experts that are saved one by one and loaded as one tensor, and with buffers."""
    with torch.random.fork_rng(devices=[]):
        make().save_pretrained(tmp_path)  # type: ignore[operator]
    check_weights(tmp_path)
    assert load_model(tmp_path, "float32").training is False


def test_looking_draws_no_random_numbers(model_dir: Path) -> None:
    before = torch.random.get_rng_state()
    check_weights(model_dir)
    assert torch.equal(torch.random.get_rng_state(), before)


CONFIGS: dict[str, tuple[dict[str, object], str]] = {
    "vocabulary": ({"vocab_size": 300}, r"embed_tokens\.weight \(258, 32\) where the config has \(300, 32\)"),
    "width": ({"hidden_size": 64}, r"of another shape: .*where the config has .* more$"),
    "layers": ({"num_hidden_layers": 3}, r"missing: model\.layers\.2\.\S+"),
    "fewer layers": ({"num_hidden_layers": 1}, r"unexpected: model\.layers\.1\.\S+"),
    "width of a word": ({"hidden_size": "wide"}, "hidden_size"),
    "no heads": ({"num_attention_heads": 0}, "expected the config.json of a causal language model"),
    "null": ({"vocab_size": None}, "vocab_size"),
    "kind": ({"model_type": "none of these"}, "none of these"),
    "no kind": ({"model_type": None}, "expected the config.json"),
    "no causal model": ({"model_type": "vit"}, "expected the config.json of a causal language model"),
    "end": ({"eos_token_id": "</s>"}, "eos_token_id"),
}


@pytest.mark.parametrize(("changes", "says"), CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("look", [check_model, load_model])
def test_a_config_of_another_model_is_refused_in_a_few_words(
    look: Callable[[Path], object], changes: dict[str, object], says: str, model_dir: Path
) -> None:
    change_json(model_dir / "config.json", **changes)
    with pytest.raises(ModelError, match=says) as refused:
        look(model_dir)
    assert str(model_dir) in str(refused.value) and len(str(refused.value)) < 600


@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
@pytest.mark.parametrize("text", ["[]", "[1, 2]", "null", "{"])
def test_a_configuration_that_is_no_object_is_refused(file: str, text: str, model_dir: Path) -> None:
    (model_dir / file).write_text(text)
    for look in (check_model, load_model, generation_config):
        if look is not generation_config or file == "generation_config.json":
            with pytest.raises(ModelError, match=rf"expected a JSON object in .*{file}"):
                look(model_dir)


@pytest.mark.parametrize("eos", ["</s>", ["2"], [2, None], True, {"id": 2}, 1.5])
def test_an_end_that_is_no_id_is_refused(eos: object, model_dir: Path) -> None:
    (model_dir / "generation_config.json").write_text(json.dumps({"eos_token_id": eos}))
    for look in (check_model, load_model, generation_config):
        with pytest.raises(ModelError, match=r"generation_config\.json: expected eos_token_id to be an id or a list"):
            look(model_dir)


def _of_another_version(tokenizer: dict[str, object]) -> None:
    tokenizer["model"] = {"type": "of tomorrow"}


def _a_list(tokenizer: dict[str, object]) -> None:
    tokenizer["added_tokens"] = {}


@pytest.mark.parametrize("change", [_of_another_version, _a_list])
def test_a_tokenizer_of_another_version_is_refused(
    change: Callable[[dict[str, object]], object], model_dir: Path
) -> None:
    file = model_dir / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    change(tokenizer)
    file.write_text(json.dumps(tokenizer))
    with pytest.raises(ModelError, match="expected a tokenizer in") as refused:
        load_tokenizer(model_dir, "compact")
    assert len(str(refused.value)) < 400


def add_token(directory: Path, token: str, *, special: bool) -> None:
    tokenizer = load_tokenizer(directory, None)
    tokenizer.add_tokens([token], special_tokens=special)
    tokenizer.save_pretrained(directory)


@pytest.mark.parametrize(("token", "special"), [("<tool>", False), ("word", False), ("<|im_sep|>", True)])
def test_ids_beyond_the_embedding_are_refused(token: str, special: bool, model_dir: Path) -> None:
    """Those that a text can have, and those of the template."""
    assert vocabulary_size(model_dir) == 258
    add_token(model_dir, token, special=special)
    (model_dir / "chat_template.jinja").write_text("{{ messages[0].content }}<|im_sep|>")
    with pytest.raises(ModelError, match=r"token ids below 258, .*\(258\): resize the model's embedding") as refused:
        load_tokenizer(model_dir, None)
    assert repr(token) in str(refused.value)


def test_a_special_token_that_never_comes_up_may_lie_beyond(model_dir: Path) -> None:
    add_token(model_dir, "<image_soft_token>", special=True)
    assert load_tokenizer(model_dir, None).convert_tokens_to_ids("<image_soft_token>") == 258


def test_a_role_for_pictures_may_lie_beyond(model_dir: Path) -> None:
    """As Gemma 3's tokenizer has one, also beside a model that takes texts alone."""
    add_token(model_dir, "<image_soft_token>", special=True)
    change_json(model_dir / "tokenizer_config.json", extra_special_tokens={"image_token": "<image_soft_token>"})
    tokenizer = load_tokenizer(model_dir, None)
    assert "<image_soft_token>" in tokenizer.all_special_tokens
    assert tokenizer.image_token_id == 258


def test_a_role_of_a_token_beyond_is_refused(model_dir: Path) -> None:
    tokenizer = load_tokenizer(model_dir, None)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(model_dir)
    with pytest.raises(ModelError, match=r"'\[PAD\]' \(258\)"):
        load_tokenizer(model_dir, "compact")


CODE = "from pathlib import Path\nPath(__file__).with_name('ran').touch()\nPath({marker!r}).touch()\n"


def with_code(directory: Path, marker: Path) -> None:
    """Code in every place that transformers runs it from, where it may."""
    (directory / "custom_generate").mkdir()
    for name in ("code.py", "custom_generate/generate.py"):
        (directory / name).write_text(CODE.format(marker=str(marker)) + "class Own: pass\ndef generate(**_): pass\n")
    classes = {"AutoConfig": "code.Own", "AutoModelForCausalLM": "code.Own"}
    change_json(directory / "config.json", auto_map=classes)
    change_json(
        directory / "tokenizer_config.json", tokenizer_class="Own", auto_map={"AutoTokenizer": ["code.Own", "code.Own"]}
    )


def test_code_that_comes_with_a_model_never_runs_and_nobody_is_asked(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    somebody = io.StringIO("y\n" * 20)
    monkeypatch.setattr(sys, "stdin", somebody)
    with_code(model_dir, tmp_path / "ran")
    load_model(model_dir)
    generation_config(model_dir)
    vocabulary_size(model_dir)
    with pytest.raises(ModelError, match="expected a tokenizer in"):
        load_tokenizer(model_dir, "compact")
    change_json(model_dir / "config.json", model_type="own")
    for look in (check_model, load_model, vocabulary_size):
        with pytest.raises(
            ModelError, match=r"config\.json: expected a model_type that transformers .* code of its own"
        ):
            look(model_dir)
    assert (somebody.tell(), (tmp_path / "ran").exists()) == (0, False)


def test_what_a_library_tells_of_a_load_is_refused_the_same_way(tmp_path: Path) -> None:
    refuse_others({"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set()}, tmp_path)
    info: dict[str, Collection[Any]] = {
        "missing_keys": {"a"},
        "unexpected_keys": {"b"},
        "mismatched_keys": {("c", torch.Size([1]), torch.Size([2]))},
    }
    with pytest.raises(ModelError, match=r"missing: a; unexpected: b; of another shape: c \(1,\) where .* \(2,\)$"):
        refuse_others(info, tmp_path)


def test_a_quantised_file_without_a_tensor_is_not_converted_and_draws_no_bar(
    tiny_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "tiny.gguf", "llama")
    writer.add_block_count(2)
    writer.add_context_length(256)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(8)
    writer.add_head_count_kv(4)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(258)
    writer.add_tensor(
        "token_embd.weight", load_file(tiny_dir / SINGLE_FILE)["model.embed_tokens.weight"].float().numpy()
    )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelError, match=r"missing: model\.layers\.0\.\S+, \S+, \S+ and 16 more$"):
        convert_model(tmp_path / "tiny.gguf", tmp_path / "converted")
    assert "%|" not in capsys.readouterr().err
