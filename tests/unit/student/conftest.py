from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.unit.modeling.tiny_model import write_tiny_model

# What imports torch cannot even be collected where it is not installed: pip install 'opcod[local]' runs these.
collect_ignore = [] if find_spec("torch") else ["test_transformers.py", "test_sampling.py", "test_streaming.py"]


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))
