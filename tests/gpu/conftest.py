"""Skipped without a GPU, and without vLLM for it (README.md says what it needs)."""

from pathlib import Path

import pytest

from shared.gpus import gpus_here
from tests.vllm.bench import PYTHON
from tests.vllm.conftest import adapters, config

__all__ = ["adapters", "config"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = None if gpus_here() else "needs a GPU"
    reason = reason if PYTHON or reason else "needs OPCOD_VLLM_PYTHON, the interpreter of vLLM's environment"
    for item in items:
        if reason is not None and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=f"{reason}; see tests/gpu/README.md"))
