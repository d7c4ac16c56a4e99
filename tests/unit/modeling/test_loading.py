import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from shared.errors import ModelError
from shared.modeling.attention import GROUPED, grouped_attention
from shared.modeling.embedded import EMBEDDED_PARAMETERS, ensure_embedded_model
from shared.modeling.loading import check_model, load_model, load_tokenizer
from shared.modeling.logprobs import probe, token_logprobs
from shared.modeling.resolving import find_model, resolve_model

pytestmark = pytest.mark.model
CACHE = Path.home() / ".cache" / "opcod"


def test_a_local_directory_resolves_to_itself(tiny_dir: Path, tmp_path: Path) -> None:
    assert resolve_model(str(tiny_dir), tmp_path) == tiny_dir


@pytest.mark.parametrize(
    ("files", "message"),
    [([], "config.json"), (["config.json", "pytorch_model.bin"], r"safetensors.*pytorch_model.bin.*convert")],
)
def test_unusable_directories_say_what_was_found(tmp_path: Path, files: list[str], message: str) -> None:
    for name in files:
        (tmp_path / name).write_text("{}")
    with pytest.raises(ModelError, match=message):
        resolve_model(str(tmp_path), tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "/no/such/directory",
        "embeded",
        "../x",
        "a/b/c",
        "",
        "a\0b",
        "\ud800",
        "n" * 300,
        "/" + "n" * 5000,
        "~nobody-here",
    ],
)
@pytest.mark.parametrize("look", [resolve_model, find_model])
def test_other_names_are_refused(look: Callable[[str, Path], Path | None], name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="expected") as refused:
        look(name, tmp_path)
    assert len(str(refused.value)) < 300


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_clone_without_its_large_files_says_how_to_fetch_them(tiny_dir: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(tiny_dir, tmp_path, dirs_exist_ok=True)
    (tmp_path / name).write_text(POINTER)
    with pytest.raises(ModelError, match=rf"{name}, found a pointer of Git LFS: `git lfs pull`"):
        resolve_model(str(tmp_path), tmp_path)


def test_so_does_an_adapter(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_text(POINTER)
    with pytest.raises(ModelError, match=r"adapter_model\.safetensors, found a pointer of Git LFS"):
        resolve_model(str(tmp_path), tmp_path)


def test_a_type_that_transformers_does_not_have_is_named(tiny_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_dir, tmp_path, dirs_exist_ok=True)
    written = json.loads((tmp_path / "config.json").read_text())
    own = {"model_type": "own", "auto_map": {"AutoConfig": "configuration_own.Own"}}
    (tmp_path / "config.json").write_text(json.dumps(written | own))
    with pytest.raises(ModelError, match=r"that transformers .* has, got 'own'; it brings code of its own, .*: choose"):
        check_model(tmp_path)


def test_a_tokenizer_that_fails_at_its_first_text_is_refused(tiny_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_dir, tmp_path, dirs_exist_ok=True)
    written = json.loads((tmp_path / "tokenizer.json").read_bytes())
    written["model"]["unk_token"] = "<none>"
    written["model"]["vocab"] = {"a": 0}
    (tmp_path / "tokenizer.json").write_text(json.dumps(written))
    with pytest.raises(ModelError, match=f"expected a tokenizer in {tmp_path}, could not load it"):
        load_tokenizer(tmp_path, None)


def test_a_truncated_file_is_a_model_error(tiny_dir: Path, tmp_path: Path) -> None:
    for file in tiny_dir.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes()[: 500 if file.suffix == ".safetensors" else None])
    with pytest.raises(ModelError, match="could not load"):
        load_model(tmp_path)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_grouped_attention_is_the_same_function(tiny_dir: Path, attention: str) -> None:
    model = load_model(tiny_dir, "float32")
    assert model.config._attn_implementation == GROUPED
    prompts, responses = [[5, 6, 7], [9]], [[1, 2], [3, 4, 5, 6]]
    ours = token_logprobs(model, prompts, responses)
    model.set_attn_implementation(attention)
    torch.testing.assert_close(ours, token_logprobs(model, prompts, responses), atol=1e-4, rtol=1e-4)


def test_columns_that_a_lot_does_not_need_are_not_looked_at() -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(5, 8, 1, 4, generator=generator)
    key, value = torch.randn(2, 5, 4, 10, 4, generator=generator)
    lengths = torch.tensor([3, 4, 2, 10, 7])
    mask = torch.zeros(5, 1, 1, 10).masked_fill_(torch.arange(10) >= lengths[:, None, None, None], -1e9)
    whole, _ = grouped_attention(nn.Module(), query, key, value, mask, 0.5)
    key[:3, :, 4:] = value[:3, :, 4:] = torch.nan
    lots, _ = grouped_attention(nn.Module(), query, key, value, mask, 0.5, spans=[(3, 4), (2, 10)])
    torch.testing.assert_close(lots, whole)


def test_grouped_attention_has_the_same_gradient(tiny_dir: Path) -> None:
    def gradient(attention: str) -> torch.Tensor:
        model = load_model(tiny_dir, "float32")
        model.set_attn_implementation(attention)
        token_logprobs(model, [[5, 6, 7], [9]], [[1, 2], [3, 4, 5, 6]]).sum().backward()
        found: torch.Tensor = model.get_parameter("model.layers.0.self_attn.k_proj.weight").grad
        return found

    torch.testing.assert_close(gradient(GROUPED), gradient("eager"), atol=1e-3, rtol=1e-3)


def test_padding_does_not_change_log_probs(tiny_dir: Path) -> None:
    model = load_model(tiny_dir, "float32")
    prompts, responses = [[5, 6, 7], [9]], [[1, 2], [3, 4, 5, 6]]
    together = token_logprobs(model, prompts, responses, temperature=0.7)
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        alone = token_logprobs(model, [prompt], [response], temperature=0.7)
        torch.testing.assert_close(together[row, : len(response)], alone[0], atol=1e-4, rtol=1e-4)
    assert together[0, 2:].tolist() == [0.0, 0.0]


def test_log_probs_are_those_of_the_softmax(tiny_dir: Path) -> None:
    model = load_model(tiny_dir, "float32")
    expected = (model(input_ids=torch.tensor([[5, 6]])).logits[0, -1] / 2).log_softmax(-1)[42]
    assert token_logprobs(model, [[5, 6]], [[42]], temperature=2.0).item() == pytest.approx(expected.item(), abs=1e-4)


def test_the_probe_tells_other_weights_apart(tiny_dir: Path) -> None:
    model, tokenizer = load_model(tiny_dir), load_tokenizer(tiny_dir, "compact")
    first = probe(model, tokenizer)
    assert len(first) == 3 and first == probe(model, tokenizer)
    with torch.no_grad():
        model.get_parameter("model.norm.weight").mul_(3.0)
    assert max(abs(a - b) for a, b in zip(first, probe(model, tokenizer), strict=True)) > 1


def test_the_embedded_model_is_the_one_it_should_be() -> None:
    path = ensure_embedded_model(CACHE)
    assert load_model(path).num_parameters() == EMBEDDED_PARAMETERS
    tokenizer = load_tokenizer(path, None)
    assert tokenizer.tokenize("x = 144") == ["x", "Ġ=", "Ġ", "1", "4", "4"]
    assert tokenizer.eos_token == "<|im_end|>"
    assert sorted(entry.name for entry in path.parent.iterdir() if entry.name.startswith(f".{path.name}-")) == []


def test_what_converting_needs_is_named_with_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)  # as where it is not installed
    with pytest.raises(ModelError, match=r"needs accelerate: `pip install -c constraints.txt -e '.\[local\]'`"):
        ensure_embedded_model(tmp_path)
