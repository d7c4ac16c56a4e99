"""Where a model computes, and what is said where a GPU was given and cannot be used. This suite's torch sees none."""

import os
from pathlib import Path

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


@pytest.mark.parametrize(
    ("environ", "gave"),
    [
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, "CUDA_VISIBLE_DEVICES=0,1 gives one"),
        ({"NVIDIA_VISIBLE_DEVICES": "all"}, "NVIDIA_VISIBLE_DEVICES=all gives one"),
        ({}, "nvidia-smi lists 1"),
    ],
)
def test_a_gpu_that_was_given_and_is_not_seen_is_an_error(tmp_path: Path, environ: dict[str, str], gave: str) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: H100'\necho 'Driver Version: 535.104.05  CUDA Version: 12.2'\n")
    program.chmod(0o755)
    with pytest.raises(ConfigError) as refused:
        device_here({**environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"})
    said = str(refused.value)
    assert said.startswith(f"expected a GPU, as {gave}, but torch {torch.__version__} sees none: it is built for ")
    assert "driver 535.104.05 runs CUDA 12.2 at most" in said and "set CUDA_VISIBLE_DEVICES= to compute" in said
