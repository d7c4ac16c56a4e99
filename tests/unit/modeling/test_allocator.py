"""What is freed goes back to the system, and what is compiled is kept within bounds."""

import ctypes
import os
from pathlib import Path

import psutil
import pytest

from shared.modeling.allocator import release_freed
from shared.modeling.loading import load_model

BLOCK, BLOCKS = 100_000, 2_000
"""Below what glibc takes from the system by itself, so that it keeps what is freed below the last one."""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs glibc")
def test_what_was_freed_and_kept_is_given_back() -> None:
    process = psutil.Process()
    blocks = [bytearray(b"x" * BLOCK) for _ in range(BLOCKS)]
    full = process.memory_info().rss
    last = blocks.pop()
    blocks.clear()
    release_freed()
    assert process.memory_info().rss < full - BLOCK * BLOCKS / 2
    assert last[0] == ord("x")


def test_another_c_library_has_nothing_to_release_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.modeling.allocator._trim", lambda: None)
    release_freed()


def test_a_model_on_a_cpu_bounds_what_is_compiled_for_it_unless_that_is_set(
    tiny_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", raising=False)
    monkeypatch.setenv("LRU_CACHE_CAPACITY", "7")
    load_model(tiny_dir)
    assert (os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"], os.environ["LRU_CACHE_CAPACITY"]) == ("64", "7")
