"""Files of tensors are those that safetensors writes, byte for byte."""

from io import BytesIO

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from shared.modeling.tensorfiles import write_tensors

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
