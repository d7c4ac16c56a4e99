"""How the device of a trainer, or of what trains offline, is set up before anything is loaded.

What always holds: a step that is made again on the same device comes out the same, as far as the settings promise it.
"""

import os

import torch

from shared.config.machine import cores_here
from shared.config.settings import RunSettings

# Of the two values with which cuBLAS repeats itself, that with room for its faster algorithms.
_CUBLAS = ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def set_up(settings: RunSettings, device: str) -> None:
    """Threads, and which algorithms torch may choose. device: "cuda" or "cpu"."""
    # Sums over another number of threads round otherwise.
    torch.set_num_threads(settings.threads_on(device, cores_here()))
    if not settings.trainer.repeats(device):
        return
    # Read when cuBLAS is first used in this process; what somebody chose for it stays.
    os.environ.setdefault(*_CUBLAS)
    # Not `warn_only`: torch's attention for GPUs would then warn, too, instead of repeating itself.
    torch.use_deterministic_algorithms(True)
    # It would fill all memory before it is used, for programs that read what they did not write.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
