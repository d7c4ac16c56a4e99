"""What runs on a real vLLM server: skipped where there is none (docs/engines.md says how to get it)."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from services.student.config import StudentConfig
from tests.vllm.bench import PYTHON


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not PYTHON and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="needs vLLM; `make test-vllm` installs it and runs these"))


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> StudentConfig:
    from tests.vllm.bench import vllm_config

    return vllm_config(tmp_path_factory.mktemp("vllm") / "test")


@pytest.fixture(scope="session")
def adapters(config: StudentConfig) -> Iterator[object]:
    """Versions 1 and 2 are published."""
    from tests.vllm.bench import Adapters

    made = Adapters(config)
    made.publish(1)
    made.publish(2)
    yield made
