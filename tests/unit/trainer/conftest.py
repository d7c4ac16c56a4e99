from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.unit.trainer.consuming import Ground

# What imports torch cannot even be collected where it is not installed: `make setup` installs it.
collect_ignore_glob = [] if find_spec("torch") else ["test_*.py"]


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.unit.modeling.tiny_model import write_tiny_model

    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def ground(tmp_path: Path, tiny_dir: Path) -> "Ground":
    from tests.unit.trainer.consuming import Ground

    return Ground(tmp_path, tiny_dir)
