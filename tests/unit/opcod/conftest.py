"""A runs directory with a run of two versions, for each test its own."""

import shutil
from pathlib import Path

import pytest

from tests.unit.modeling.tiny_model import write_tiny_model
from tests.unit.opcod.published_run import write_published_run
from tests.unit.trainer.ground import RUN


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once, and only copied."""
    runs = tmp_path_factory.mktemp("runs")
    write_published_run(runs / RUN, write_tiny_model(tmp_path_factory.mktemp("tiny")))
    return runs


@pytest.fixture
def runs(published: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(published, tmp_path / "runs"))
