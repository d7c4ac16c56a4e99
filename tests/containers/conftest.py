"""One engine, both images and one project for all tests here; skipped but by `make test-containers`."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers.bases import package_sources, provide_bases
from tests.containers.engine import Engine, NoEngineError
from tests.containers.engine import engine as docker_engine
from tests.containers.project import Project

WANTED = "OPCOD_CONTAINERS"
BUILT_WITHIN_S = 600


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(900))
            if not os.environ.get(WANTED):
                item.add_marker(pytest.mark.skip(reason="needs a Docker engine; `make test-containers` runs these"))


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    try:
        with docker_engine() as found:
            yield found
    except NoEngineError as error:
        pytest.fail(str(error))


@pytest.fixture(scope="session")
def project(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """Both images are built. Volumes are shared by the runs of all tests, and removed at the end."""
    root = tmp_path_factory.mktemp("containers")
    provide_bases(engine, root)
    made = Project(engine, root, f"opcod-{uuid.uuid4().hex[:6]}")
    with package_sources(engine) as sources:
        # Where pip looks here has a torch for CPUs, or its default index has one.
        torch = {"TORCH_INDEX": ""} if "PIP_FIND_LINKS" in sources else {}
        arguments = [f"--build-arg={name}={value}" for name, value in (sources | torch).items()]
        made.compose("build", *arguments, timeout_s=BUILT_WITHIN_S)
    try:
        yield made
    finally:
        made.compose("down", "--volumes", "--timeout", "20")


@pytest.fixture(autouse=True)
def _nothing_is_up_afterwards(project: Project) -> Iterator[None]:
    yield
    project.compose("down", "--timeout", "60")
    project.set({})
