"""What services are waited for with, and what is said when they do not come."""

from pathlib import Path

import pytest

from opcod.local.services import NodeServices
from shared.config.loading import load_settings
from shared.config.settings import Paths
from shared.errors import UnavailableError


@pytest.fixture
def services(tmp_path: Path) -> NodeServices:
    paths = Paths(runs_dir=tmp_path, run="pair", cache_dir=tmp_path / "cache")
    return NodeServices(paths, load_settings(preset="smoke", environ={}), "run")


def test_a_service_that_does_not_come_is_named_with_the_end_of_its_log(services: NodeServices, tmp_path: Path) -> None:
    log = tmp_path / "pair" / "logs" / "trainer-a.log"
    log.parent.mkdir(parents=True)
    log.write_text("no such model\n")
    with pytest.raises(UnavailableError) as refused:
        services.wait("trainer-a", lambda: "it has not begun to listen", 0.0)
    said = f"waited 0 s for trainer-a: it has not begun to listen; its log ({log}) ends:\nno such model"
    assert str(refused.value) == said


def test_nodes_that_do_not_come_have_no_log(services: NodeServices) -> None:
    with pytest.raises(UnavailableError) as refused:
        services.wait("the other nodes", lambda: "not joined: node 1, 2", 0.0)
    assert str(refused.value) == "waited 0 s for the other nodes: not joined: node 1, 2"
