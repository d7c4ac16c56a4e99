"""What integration tests share: a server, a student on it whose process a test starts, runs to look at and act on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from opcod.local.deployment import Deployment
from shared.bus.redis import RedisBus
from shared.problems.loading import load_problem_set
from tests.fakes import broker
from tests.fakes.deployment import scripted_settings
from tests.fakes.inspected import Stand, standing
from tests.fakes.served import served_run
from tests.fakes.student import RUN
from tests.fakes.student_process import LEASE_S, Student
from tests.fakes.valkey import ValkeyServer
from tests.fakes.waiting import WAIT_S


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    server = ValkeyServer(data_dir=tmp_path_factory.mktemp("valkey"), persist=True, appendonly="yes")
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def acting_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = ValkeyServer(data_dir=str(tmp_path_factory.mktemp("valkey")), persist=True, appendonly="yes")
    server.start()
    yield server.connection_url
    server.stop()


@pytest.fixture
def stand(tmp_path: Path, acting_redis: str) -> Iterator[Stand]:
    with standing(tmp_path / broker.RUN, acting_redis) as stood:
        yield stood


@pytest.fixture
def lease_s() -> float:
    """Of the student's bus, for a test to give another."""
    return LEASE_S


@pytest.fixture
def student(server: ValkeyServer, tmp_path: Path, lease_s: float) -> Iterator[Student]:
    fresh = RedisBus(server.connection_url, RUN)
    fresh.link.client.flushall()
    fresh.close()
    student = Student(tmp_path, server.connection_url, lease_s=lease_s)
    yield student
    if student.process is not None and student.process.poll() is None:
        student.process.kill()
        student.process.wait(timeout=WAIT_S)
    student.bus.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A run of scripted students that is up: a file's own, as idle it takes a twentieth of a core until it ends."""
    with served_run(tmp_path_factory.mktemp("runs")) as up:
        yield up


@pytest.fixture(scope="session")
def known_question() -> str:
    """A problem that the scripted students know."""
    settings = scripted_settings()
    domains = (settings.students["a"].domain, settings.students["b"].domain)
    return load_problem_set("generated", "integer", settings.run.seed, domains=domains).train[0].question
