"""What is refused of a model's directory by its small files alone. Needs no torch."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.errors import ModelError, NotFoundError
from shared.modeling.directory import (
    INDEX_FILE,
    SINGLE_FILE,
    checked_directory,
    few,
    read_model_config,
    read_object,
    reading,
    weight_files,
)


def index(directory: Path, places: object) -> Path:
    (directory / INDEX_FILE).write_text(json.dumps({"weight_map": places}))
    return directory


def test_weights_are_those_of_the_single_file_or_of_the_index(tmp_path: Path) -> None:
    for name in ("one.safetensors", "two.safetensors", "stray.safetensors"):
        (tmp_path / name).touch()
    index(tmp_path, {"a": "two.safetensors", "b": "one.safetensors", "c": "two.safetensors"})
    assert [file.name for file in weight_files(tmp_path)] == ["one.safetensors", "two.safetensors"]
    (tmp_path / SINGLE_FILE).touch()
    assert [file.name for file in weight_files(tmp_path)] == [SINGLE_FILE]


@pytest.mark.parametrize(
    ("places", "says"),
    [
        (None, "expected weight_map"),
        (["a"], "expected weight_map"),
        ({"a": 1}, "expected weight_map"),
        ({"a": "gone.safetensors"}, r"found no gone\.safetensors"),
        ({"a": "../other/model.safetensors"}, "found no"),
        ({"a": "n" * 300}, "found no nnn"),
        ({"a": "a\0b"}, r"found no a\\x00b"),
        ({"a": "."}, "found no ."),
    ],
)
def test_an_index_that_names_no_files_here_is_refused(places: object, says: str, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / SINGLE_FILE).touch()
    (tmp_path / "model").mkdir()
    with pytest.raises(ModelError, match=says):
        weight_files(index(tmp_path / "model", places))


def test_weights_under_other_names_are_not_guessed(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").touch()
    with pytest.raises(ModelError, match=r"expected model\.safetensors or .*index\.json.*found weights\.safetensors"):
        weight_files(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("quantization_config", {"quant_method": "bitsandbytes", "load_in_4bit": True}),
        ("quantization_config", {"quant_method": "gptq", "bits": 4, "group_size": 128}),
        ("quantization_config", {"quant_method": "awq", "bits": 4, "version": "gemm"}),
        ("transformers_weights", "adapter_model.bin"),
    ],
)
def test_weights_that_are_not_plain_are_refused_by_the_field(field: str, value: object, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", field: value}))
    with pytest.raises(ModelError, match=rf"config\.json: expected no {field}, got ") as refused:
        read_model_config(tmp_path)
    assert str(tmp_path) in str(refused.value)


@pytest.mark.parametrize("value", [None, {}])
def test_a_field_that_is_empty_is_none(value: object, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": value}))
    assert read_model_config(tmp_path) == {"quantization_config": value}


@pytest.mark.parametrize(
    "text", [b"[1, 2]", b"null", b'"a"', b"{", b"\xff", b"[" * 100_000, b"[" + b"1," * 9999 + b"1]"]
)
def test_json_that_is_no_object_is_refused_in_a_few_words(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(text)
    with pytest.raises(ModelError, match=r"expected a JSON object in .*x\.json") as refused:
        read_object(tmp_path / "x.json")
    assert len(str(refused.value)) < 400


def test_an_adapter_and_a_model_in_one_directory_are_refused_with_both_files(tmp_path: Path) -> None:
    for name in ("config.json", SINGLE_FILE, "adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / name).touch()
    with pytest.raises(ModelError, match=r"found both config\.json with weights and adapter_config\.json"):
        checked_directory(tmp_path)


def _exception() -> None:
    raise Exception("data did not match any variant of untagged enum ModelWrapper " * 100)


def _without_words() -> None:
    raise KeyError


def _in_lines() -> None:
    raise ValueError("one\n  two\n")


@pytest.mark.parametrize(
    ("fail", "says"),
    [(_exception, "could not load it: data did not"), (_without_words, "KeyError"), (_in_lines, "one two")],
)
def test_whatever_a_library_raises_names_the_directory(fail: Callable[[], None], says: str, tmp_path: Path) -> None:
    with (
        pytest.raises(ModelError, match=rf"expected a tokenizer in {tmp_path}.*{says}") as refused,
        reading("a tokenizer", tmp_path),
    ):
        fail()
    assert len(str(refused.value)) < 400 and refused.value.__cause__ is not None


def test_an_error_of_ours_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"^ours$"), reading("a tokenizer", tmp_path):
        raise NotFoundError("ours")


def test_many_names_are_counted() -> None:
    assert few(["a", "b", "c"]) == "a, b, c"
    assert few(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"
