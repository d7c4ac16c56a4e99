"""Which GPUs a process was given, by its variables and by a stand-in for nvidia-smi."""

import os
from pathlib import Path

import pytest

from shared.errors import UnavailableError
from shared.gpus import NvmlReader, driver, given, gpus_here


def test_what_we_may_see_is_counted_by_its_names() -> None:
    assert gpus_here({"CUDA_VISIBLE_DEVICES": "4,5"}) == 2
    assert gpus_here({"CUDA_VISIBLE_DEVICES": ""}) == 0
    assert gpus_here({"CUDA_VISIBLE_DEVICES": "-1"}) == 0
    assert gpus_here({"CUDA_VISIBLE_DEVICES": "GPU-7,3,-1,2"}) == 2


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of that name, first on the PATH; a test writes what it does."""
    program = tmp_path / "nvidia-smi"
    program.touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    return program


def test_the_list_of_nvidia_smi_counts(nvidia_smi: Path) -> None:
    nvidia_smi.write_text("#!/bin/sh\necho 'GPU 0: H100 (UUID: GPU-1)'\necho 'GPU 1: H100 (UUID: GPU-2)'\n")
    assert gpus_here({}) == 2


def test_a_driver_that_does_not_answer_is_no_machine_without_gpus(nvidia_smi: Path) -> None:
    nvidia_smi.write_text("#!/bin/sh\necho 'Driver/library version mismatch' >&2\nexit 18\n")
    with pytest.raises(UnavailableError, match="exit code 18: Driver/library version mismatch; mend the driver"):
        gpus_here({})


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"CUDA_VISIBLE_DEVICES": "GPU-7"}, "CUDA_VISIBLE_DEVICES=GPU-7 gives one"),
        ({"CUDA_VISIBLE_DEVICES": ""}, None),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, None),
        ({"NVIDIA_VISIBLE_DEVICES": "all"}, "NVIDIA_VISIBLE_DEVICES=all gives one"),
        ({"NVIDIA_VISIBLE_DEVICES": "void"}, None),
        ({"CUDA_VISIBLE_DEVICES": "", "NVIDIA_VISIBLE_DEVICES": "all"}, None),
        ({}, "nvidia-smi lists 1"),
    ],
)
def test_what_gave_a_gpu_is_named(nvidia_smi: Path, environ: dict[str, str], said: str | None) -> None:
    nvidia_smi.write_text("#!/bin/sh\necho 'GPU 0: H100 (UUID: GPU-1)'\n")
    assert given(environ) == said


@pytest.mark.parametrize("words", ["CUDA Version: 12.2", "CUDA UMD Version: 12.2"])
def test_the_driver_and_its_cuda_are_told(nvidia_smi: Path, words: str) -> None:
    nvidia_smi.write_text(f"#!/bin/sh\necho '| NVIDIA-SMI 535.1  Driver Version: 535.104.05   {words} |'\n")
    assert driver({}) == "driver 535.104.05 runs CUDA 12.2 at most"


def test_a_driver_that_says_nothing_is_not_made_up(nvidia_smi: Path) -> None:
    nvidia_smi.write_text("#!/bin/sh\nexit 9\n")
    assert driver({}).startswith(("no driver of NVIDIA's is loaded", "the driver's CUDA is not known"))
    nvidia_smi.write_text("no program")
    assert driver({}).startswith(("no driver of NVIDIA's is loaded", "the driver's CUDA is not known"))
    with pytest.raises(UnavailableError, match=r"does not run: .*; mend the driver"):
        gpus_here({})


def test_without_a_driver_the_library_s_word_is_passed_on() -> None:
    pynvml = pytest.importorskip("pynvml", reason="needs nvidia-ml-py, which `make setup` installs")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        with pytest.raises(UnavailableError, match="does not tell of the GPUs here: NVML Shared Library Not Found"):
            NvmlReader({})
    else:
        assert all(card.bytes >= card.used >= 0 for card in NvmlReader({}).read())
        assert NvmlReader({"CUDA_VISIBLE_DEVICES": "-1"}).read() == []
