from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.unit.modeling.tiny_model import write_tiny_model

# What imports torch cannot even be collected where it is not installed: `make setup` installs it.
TORCH_TESTS = [
    "test_adapters.py",
    "test_chat.py",
    "test_exporting.py",
    "test_finite.py",
    "test_fitting.py",
    "test_loading.py",
    "test_merging.py",
    "test_origins.py",
    "test_plain_lora.py",
]
collect_ignore = [] if find_spec("torch") else TORCH_TESTS


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))
