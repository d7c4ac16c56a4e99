import json
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.contracts.models import PreparedModel
from shared.errors import ModelError
from shared.modeling.checksums import TensorBytes, checksum_of, file_checksum, model_files, stamps, weights_checksum

Tensors = dict[str, tuple[str, list[int], bytes]]


def file_of(tensors: Tensors) -> bytes:
    """A safetensors file, tensors in the order given."""
    header, data = {}, b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    return struct.pack("<Q", len(text)) + text + data


EXAMPLE: Tensors = {"b": ("F32", [2], b"12345678"), "a": ("BF16", [1, 2], b"abcd")}


def test_file_and_memory_agree_whatever_the_order_in_the_file(tmp_path: Path) -> None:
    expected = checksum_of(TensorBytes(name, *EXAMPLE[name]) for name in sorted(EXAMPLE))
    for number, order in enumerate((["a", "b"], ["b", "a"])):
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(file_of({name: EXAMPLE[name] for name in order}))
        assert file_checksum(path) == expected


def test_shards_have_the_checksum_of_the_whole(tmp_path: Path) -> None:
    whole, shards = tmp_path / "whole", [tmp_path / name for name in EXAMPLE]
    whole.write_bytes(file_of(EXAMPLE))
    for shard in shards:
        shard.write_bytes(file_of({shard.name: EXAMPLE[shard.name]}))
    assert file_checksum(*shards) == file_checksum(whole)


@pytest.mark.parametrize(
    "other",
    [
        {**EXAMPLE, "a": ("BF16", [1, 2], b"abce")},
        {**EXAMPLE, "a": ("F16", [1, 2], b"abcd")},
        {**EXAMPLE, "a": ("BF16", [2, 1], b"abcd")},
        {"b": EXAMPLE["b"], "c": EXAMPLE["a"]},
        {"a": EXAMPLE["a"]},
    ],
    ids=["bytes", "dtype", "shape", "name", "missing"],
)
def test_any_change_changes_it(tmp_path: Path, other: Tensors) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(file_of(EXAMPLE))
    two.write_bytes(file_of(other))
    assert file_checksum(one) != file_checksum(two)


@given(cut=st.integers(min_value=0, max_value=len(file_of(EXAMPLE)) - 1))
def test_a_file_cut_anywhere_is_refused(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("cut") / "model.safetensors"
    path.write_bytes(file_of(EXAMPLE)[:cut])
    with pytest.raises(ModelError, match="safetensors file"):
        file_checksum(path)


@pytest.mark.parametrize(
    "header",
    [
        '{"a":' * 3000 + "1" + "}" * 3000,
        '{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0.5, 4]}}',
        '{"a": {"dtype": "F32", "shape": [true], "data_offsets": [0, 4]}}',
        '{"a": {"dtype": "F32", "shape": [1], "data_offsets": ["0", "4"]}}',
        '{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 2, 4]}}',
        '{"a": []}',
        "[]",
    ],
)
def test_a_header_that_describes_no_tensors_is_refused(header: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(8))
    with pytest.raises(ModelError, match="complete safetensors file") as refused:
        file_checksum(path)
    assert len(str(refused.value)) < 500


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"PK\x03\x04" + bytes(60))
    with pytest.raises(ModelError, match="something else"):
        file_checksum(path)


def test_prepared_weights_are_not_read_again_while_nothing_was_written(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(file_of(EXAMPLE))
    (tmp_path / "config.json").write_text("{}")
    seen = stamps(model_files(tmp_path))
    prepared = PreparedModel(path=tmp_path, sha256="0" * 64, checksum="as prepared", stamps=seen)
    assert weights_checksum(prepared) == "as prepared"
    assert weights_checksum(PreparedModel(path=tmp_path, sha256="0" * 64)) == file_checksum(path)
    path.write_bytes(file_of({**EXAMPLE, "b": ("F32", [2], b"87654321")}))
    assert weights_checksum(prepared) == file_checksum(path)
