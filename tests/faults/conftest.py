"""What the faults' tests share: a tiny model, and what an undisturbed run makes of it."""

from pathlib import Path

import pytest

from opcod.local.processes import launch
from tests.fakes.deployment import CONTEXT, THREE, undisturbed_weights
from tests.fakes.made_once import made_once
from tests.unit.modeling.tiny_model import write_tiny_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch")
    return write_tiny_model(tmp_path_factory.mktemp("tiny"), context=CONTEXT)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, str]:
    """sha256 of each version's weights. Real programs make them, so that all runs that are forked are held against one
    that is not."""
    return made_once(
        tmp_path_factory,
        "undisturbed",
        lambda runs_dir: undisturbed_weights(runs_dir, tiny_model, start_process=launch),
    )


@pytest.fixture(scope="session")
def undisturbed_three(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, str]:
    """The same of three students, forked."""
    return made_once(
        tmp_path_factory,
        "undisturbed-three",
        lambda runs_dir: undisturbed_weights(runs_dir, tiny_model, *THREE),
    )
