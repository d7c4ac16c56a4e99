"""Two processes with one name of service and replica: the second ends before it has taken any work."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.contracts.jobs import JobKind
from shared.errors import EXIT_USAGE
from tests.fakes.service_process import start_service
from tests.fakes.student import RUN
from tests.fakes.student_process import Student
from tests.fakes.valkey import ValkeyServer
from tests.fakes.waiting import WAIT_S


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ValkeyServer]:
    with ValkeyServer(data_dir=tmp_path / "valkey", persist=True, appendonly="no") as server:
        yield server


@pytest.fixture
def first(tmp_path: Path, server: ValkeyServer) -> Iterator[Student]:
    student = Student(tmp_path / "first", server.connection_url)
    yield student
    end(student)


def end(student: Student) -> None:
    if student.process is not None and student.process.poll() is None:
        student.process.kill()
        student.process.wait(timeout=WAIT_S)
    student.bus.close()


def test_the_second_is_refused_and_a_restart_after_a_kill_is_not(tmp_path: Path, first: Student) -> None:
    first.start()
    process, _ = start_service(
        "student",
        run=RUN,
        run_dir=Student(tmp_path / "second", first.redis_url).run_dir,
        redis_url=first.redis_url,
        OPCOD_STUDENT="a",
    )
    assert process.wait(timeout=WAIT_S) == EXIT_USAGE
    said = (tmp_path / "second" / "student.log").read_text(encoding="utf-8")
    assert "expected no other student-a with the name '0'" in said and "OPCOD_REPLICA" in said
    first.broker.issue(JobKind.ROLLOUT, 1)
    assert [done.replica for done in first.done(1)] == ["0"]
    assert first.process is not None and first.process.poll() is None
    first.end(signal.SIGKILL)
    first.start()
    first.broker.issue(JobKind.ROLLOUT, 2)
    assert len(first.done(2)) == 2
