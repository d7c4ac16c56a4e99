"""Files of tensors are those that safetensors writes, byte for byte."""

from io import BytesIO
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from shared.files.store import READ_ATTEMPTS
from shared.modeling.checksums import file_checksum
from shared.modeling.fitting import file_tensors
from shared.modeling.tensorfiles import read_tensors, write_tensors
from tests.fakes.stale_files import StaleFiles

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=9)
SHAPES = st.lists(st.integers(0, 3), max_size=3)


def written(tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> bytes:
    sink = BytesIO()
    write_tensors(tensors, sink, metadata)
    return sink.getvalue()


@settings(max_examples=50)
@given(
    st.dictionaries(NAMES, st.tuples(st.sampled_from(DTYPES), SHAPES), max_size=6),
    st.none() | st.just({"format": "pt"}),
)
def test_the_bytes_are_those_of_safetensors(
    kinds: dict[str, tuple[torch.dtype, list[int]]], metadata: dict[str, str] | None
) -> None:
    generator = torch.Generator().manual_seed(len(kinds))
    tensors = {name: torch.randn(shape, generator=generator).to(dtype) for name, (dtype, shape) in kinds.items()}
    tensors.pop("__metadata__", None)
    assert written(tensors, metadata) == save(tensors, metadata)


def test_rows_that_do_not_lie_one_after_the_other_are_written_so() -> None:
    turned = torch.arange(6.0).reshape(2, 3).T
    assert written({"x": turned}) == save({"x": turned.contiguous()})


def test_other_types_are_no_weights() -> None:
    with pytest.raises(ValueError, match="not in tuple"):
        written({"x": torch.zeros(1, dtype=torch.int64)})


def test_files_are_read_patiently(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, tensors = tmp_path / "x.safetensors", {"x": torch.arange(6.0)}
    file.write_bytes(save(tensors))
    stale = StaleFiles(monkeypatch, tmp_path)
    for read in (read_tensors, lambda path: dict(file_tensors(path)), lambda path: {"x": file_checksum(path)}):
        stale.fail(READ_ATTEMPTS - 1)
        assert read(file).keys() == tensors.keys()
    stale.fail(READ_ATTEMPTS)
    with pytest.raises(OSError, match="Stale"):
        read_tensors(file)
    stale.fail(0)
    with pytest.raises(FileNotFoundError):
        read_tensors(tmp_path / "y.safetensors")
    assert stale.tries["y.safetensors"] == 1
