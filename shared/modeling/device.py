"""Where a model computes: on the GPU that the process was given, else on the CPU, and never on the CPU in silence."""

import os
from collections.abc import Mapping
from pathlib import Path

import torch

from shared.errors import ConfigError

_CHOSEN = "CUDA_VISIBLE_DEVICES"
_BY_CONTAINER = "NVIDIA_VISIBLE_DEVICES"
# How no GPU is said: empty or negative to CUDA, in words to NVIDIA's container toolkit.
_NOTHING = frozenset({"", "-1", "none", "void", "nodevfiles"})
_DRIVER = Path("/proc/driver/nvidia/version")


def device_here(environ: Mapping[str, str] = os.environ) -> str:
    """Return "cuda" or "cpu". Raises ConfigError where GPUs were given and torch sees none.

    That is a driver older than torch's CUDA, or a build of torch for CPUs; either would compute for days on a CPU.
    """
    if torch.cuda.is_available():
        return "cuda"
    name = _CHOSEN if _CHOSEN in environ else _BY_CONTAINER
    given = environ.get(name, "")
    if given.split(",")[0].strip() in _NOTHING:
        return "cpu"
    built = f"is built for CUDA {torch.version.cuda}" if torch.version.cuda else "is built for CPUs only"
    driver = (
        _DRIVER.read_text(errors="replace").splitlines()[0] if _DRIVER.is_file() else "no driver of NVIDIA's is loaded"
    )
    raise ConfigError(
        f"expected a GPU, as {name}={given} gives one, but torch {torch.__version__} sees none: it {built} ({driver}); "
        f"install a torch that fits the driver, or set {_CHOSEN}= to compute on the CPU"
    )
