"""Where a model computes: on the GPU that the process was given, else on the CPU, and never on the CPU in silence."""

import os
from collections.abc import Mapping

import torch

from shared.errors import ConfigError
from shared.gpus import VISIBLE, driver, given


def device_here(environ: Mapping[str, str] = os.environ) -> str:
    """Return "cuda" or "cpu". Raises ConfigError where GPUs were given and torch sees none.

    That is a driver older than torch's CUDA, or a build of torch for CPUs; either would compute for days on a CPU.
    Raises UnavailableError where the driver cannot tell.
    """
    if torch.cuda.is_available():
        return "cuda"
    gave = given(environ)
    if gave is None:
        return "cpu"
    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for CPUs only"
    raise ConfigError(
        f"expected a GPU, as {gave}, but torch {torch.__version__} sees none: it is {built}, and {driver(environ)}; "
        f"install a torch for a CUDA that the driver runs, or a newer driver (docs/engines.md, Drivers), or set "
        f"{VISIBLE}= to compute on the CPU"
    )
