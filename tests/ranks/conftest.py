"""A tiny model for all tests here, and a server for those of whole trainers."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.bus.redis import RedisBus
from tests.fakes.valkey import ValkeyServer
from tests.unit.modeling.tiny_model import write_tiny_model

LEASE_S = 1.0


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch")
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ValkeyServer]:
    running = ValkeyServer(data_dir=str(tmp_path))
    running.start()
    yield running
    running.stop()


@pytest.fixture
def bus(server: ValkeyServer) -> Iterator[RedisBus]:
    from tests.unit.trainer.ground import RUN  # loads torch, which not every test here has

    opened = RedisBus(server.connection_url, RUN, lease_s=LEASE_S, deadline_s=10.0)
    yield opened
    opened.close()
