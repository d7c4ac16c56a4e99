"""Skipped without a GPU, and what needs an engine without vLLM for it (README.md says what it needs)."""

import os
from pathlib import Path

import pytest

from shared.gpus import gpus_here
from tests.vllm.bench import PYTHON
from tests.vllm.conftest import adapters, config

__all__ = ["adapters", "config"]

WITHOUT_ENGINE = "test_trainer_on_gpu.py"
FIRST = (WITHOUT_ENGINE, "test_model_runner.py")
"""What says most about all that comes after it."""

# Before anything here computes: cuBLAS reads it once.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: FIRST.index(item.path.name) if item.path.name in FIRST else len(FIRST))
    no_gpu = None if gpus_here() else "needs a GPU"
    no_engine = None if PYTHON else "needs OPCOD_VLLM_PYTHON, the interpreter of vLLM's environment"
    for item in items:
        if Path(__file__).parent not in item.path.parents:
            continue
        reason = no_gpu or (None if item.path.name == WITHOUT_ENGINE else no_engine)
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=f"{reason}; see tests/gpu/README.md"))
