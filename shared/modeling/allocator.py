"""Memory that libraries keep for what comes next, given back or bounded.

Keys and values, activations and logits come and go in blocks of all sizes, and glibc keeps most of what is freed: half
a gigabyte of the 1.4 that a student of 135M parameters has after a batch of 64 sequences, .7 of the 1.25 that its
trainer has after a step (measured). oneDNN keeps the products that it has compiled, one for each shape. Where students
and trainers take turns on one machine, what the one keeps the other lacks.
"""

import ctypes
import os
from collections.abc import Callable
from functools import cache

_PRODUCTS = 64
"""Several times those of one pass, whose layers all have the same."""

_SIGNS = ("out of memory", "can't allocate memory", "ALLOC_FAILED")


def release_freed() -> None:
    """For who rests now: it takes 20 to 40 ms, and what is used again comes back page by page. Not glibc: nothing."""
    if (trim := _trim()) is not None:
        trim(0)


def bound_compiled_products() -> None:
    """Before the first product on a CPU: keep `_PRODUCTS` compiled ones in place of 1,024. What is set already counts.

    Batches have ever other rows and lengths, so that hundreds of megabytes were kept: 72 sequences of the embedded
    model at once were measured at a peak of 1.24 GiB in place of 1.65, for 2 to 3 % more time.
    """
    # One of oneDNN's own, and one of what torch calls it through. Each is asked for as it first fills.
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, str(_PRODUCTS))


def ran_out(error: BaseException) -> bool:
    """Whether it says that there was no memory left, on the host or on a GPU."""
    # Torch has a class for a GPU's own allocator; the host's, and libraries on the GPU, only say so.
    said = isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)
    return said or isinstance(error, MemoryError)


@cache
def _trim() -> Callable[[int], int] | None:
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
