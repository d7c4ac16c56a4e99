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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(2400))
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
    with package_sources(engine) as sources:
        made = Project(engine, root, f"opcod-{uuid.uuid4().hex[:6]}", sources)
        made.build()
        try:
            yield made
        finally:
            made.down("--volumes", "--timeout", "20")


@pytest.fixture(autouse=True)
def _nothing_is_up_afterwards(project: Project) -> Iterator[None]:
    yield
    project.down("--timeout", "60")
    project.set({})
