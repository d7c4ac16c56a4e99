import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from shared.errors import ModelError
from shared.modeling.fitting import file_tensors, is_finite, require_finite

pytestmark = pytest.mark.model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_finite_is_what_every_element_is(dtype: torch.dtype) -> None:
    """Also where the sum is not, or infinities of both signs meet in it."""
    largest = torch.finfo(dtype).max
    for row in ([], [1.0, -2.0], [largest, largest, largest]):
        assert is_finite(torch.tensor(row, dtype=dtype))
    for row in ([1.0, math.nan], [math.inf, 1.0], [math.inf, -math.inf], [largest, largest, math.nan]):
        assert not is_finite(torch.tensor(row, dtype=dtype))


def test_files_are_looked_at_tensor_by_tensor(tmp_path: Path) -> None:
    tensors = {f"{name}": torch.full((2,), float(name)) for name in range(3)}
    for name, tensor in tensors.items():
        save_file({name: tensor}, tmp_path / f"{name}.safetensors")
    found = dict(file_tensors(*sorted(tmp_path.iterdir())))
    assert {name: tensor.tolist() for name, tensor in found.items()} == {"0": [0, 0], "1": [1, 1], "2": [2, 2]}
    require_finite(found.items(), tmp_path)


def test_what_is_not_finite_is_named_and_counted(tmp_path: Path) -> None:
    spoilt = [(f"layer.{number}", torch.tensor([math.nan])) for number in range(5)]
    with pytest.raises(ModelError, match=r"finite weights in .*in layer\.0, layer\.1, layer\.2 and 2 more"):
        require_finite([("sound", torch.ones(2)), *spoilt], tmp_path)


def test_a_file_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"one": torch.ones(100)}, file)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ModelError, match=r"expected safetensors in .*model\.safetensors"):
        list(file_tensors(file))
