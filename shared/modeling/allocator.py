"""Memory that was freed and that the C library keeps for what comes next, given back to the system.

Keys and values, activations and logits come and go in blocks of all sizes, and glibc keeps most of what is freed: half
a gigabyte of the 1.4 that a student of 135M parameters has after a batch of 64 sequences (measured). Where students and
trainers take turns on one machine, what the one keeps the other lacks.
"""

import ctypes
from collections.abc import Callable
from functools import cache

_SIGNS = ("out of memory", "can't allocate memory", "ALLOC_FAILED")


def release_freed() -> None:
    """For who rests now: it takes 20 to 40 ms, and what is used again comes back page by page. Not glibc: nothing."""
    if (trim := _trim()) is not None:
        trim(0)


def ran_out(error: BaseException) -> bool:
    """Whether it says that there was no memory left, on the host or on a GPU."""
    # Torch has a class for a GPU's own allocator; the host's, and libraries on the GPU, only say so.
    said = isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)
    return said or isinstance(error, MemoryError)


@cache
def _trim() -> Callable[[int], int] | None:
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
