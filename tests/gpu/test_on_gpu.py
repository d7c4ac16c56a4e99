"""The vLLM suite as it is, where the engine and its student have a GPU; and that they do."""

import psutil
import pytest

from services.student.engines.vllm.engine import VllmEngine
from tests.vllm.test_engine import *  # noqa: F403
from tests.vllm.test_run import test_a_run_goes_on_when_its_engine_is_killed

__all__ = ["test_a_run_goes_on_when_its_engine_is_killed"]

pytestmark = [pytest.mark.model, pytest.mark.timeout(1500)]


def test_the_engine_is_on_the_gpu(engine: VllmEngine) -> None:
    process = engine.server.life.process
    assert process is not None
    family = psutil.Process(process.pid).children(recursive=True)
    assert any("/dev/nvidia" in file.path or "libcuda" in file.path for each in family for file in each.memory_maps())
