import pytest

from tests.deploy.deployed import Tree
from tests.deploy.overlays import ALL


@pytest.fixture
def objects(request: pytest.FixtureRequest) -> tuple[Tree, ...]:
    """Of one of ALL, for a test of EACH."""
    return ALL[request.param]
