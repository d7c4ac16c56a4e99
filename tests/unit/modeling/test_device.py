"""Where a model computes, and what is said where a GPU was given and cannot be used. This suite's torch sees none."""

import pytest
import torch

from shared.errors import ConfigError
from shared.modeling.device import device_here

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is used here: tests/gpu")


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"CUDA_VISIBLE_DEVICES": ""},
        {"CUDA_VISIBLE_DEVICES": "-1"},
        {"NVIDIA_VISIBLE_DEVICES": "void"},
        {"CUDA_VISIBLE_DEVICES": "", "NVIDIA_VISIBLE_DEVICES": "all"},
    ],
)
def test_without_a_gpu_it_is_the_cpu(environ: dict[str, str]) -> None:
    assert device_here(environ) == "cpu"


@pytest.mark.parametrize("environ", [{"CUDA_VISIBLE_DEVICES": "0,1"}, {"NVIDIA_VISIBLE_DEVICES": "all"}])
def test_a_gpu_that_was_given_and_is_not_seen_is_an_error(environ: dict[str, str]) -> None:
    with pytest.raises(
        ConfigError, match=r"expected a GPU, as \w+=\S+ gives one, but torch .* built for .*CUDA_VISIBLE_D"
    ):
        device_here(environ)
