"""How a service starts and ends, as a process of its own: signals, exit codes, a port that is taken."""

import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from shared.http.app import create_app
from shared.http.serving import OPEN_FILES, Connection, allow_open_files
from shared.parents import PARENT_VARIABLE
from tests.fakes.access import PLENTY
from tests.fakes.listening import listening
from tests.fakes.serving_child import LONG_S
from tests.fakes.waiting import WAIT_S, wait_until


@dataclass
class Child:
    """One service process, and where it answers once it does."""

    url_file: Path
    process: subprocess.Popen[str] | None = None

    def start(
        self, how: str = "works", port: int = 0, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.fakes.serving_child", str(port), str(self.url_file), how]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        return self.process

    def url(self) -> str:
        wait_until(self.url_file.exists, "the service to listen", pause_s=0.02)
        return self.url_file.read_text()


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    one = Child(tmp_path / "url")
    yield one
    if one.process is not None:
        if one.process.poll() is None:
            one.process.kill()
        one.process.communicate()


def test_sigterm_ends_it_soon_with_exit_code_0_and_answers_what_it_was_asked(child: Child) -> None:
    process = child.start()
    url = child.url()
    answers: list[httpx2.Response] = []
    asking = threading.Thread(target=lambda: answers.append(httpx2.get(f"{url}/slow", trust_env=False, timeout=WAIT_S)))
    asking.start()
    wait_until(Path(f"{child.url_file}.asked").exists, "the question")
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(WAIT_S) == 0
    assert time.monotonic() - began < LONG_S / 2
    asking.join(WAIT_S)
    assert [answer.json() for answer in answers] == [{"answered": "in full"}]


def test_a_thread_that_does_not_end_does_not_hold_it_up(child: Child) -> None:
    process = child.start("stubborn")
    child.url()
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(WAIT_S) == 0
    assert time.monotonic() - began < LONG_S / 2


@pytest.mark.parametrize(("how", "code"), [("fenced", 75), ("broken", 1)])
def test_a_thread_that_fails_ends_it_with_the_errors_exit_code(child: Child, how: str, code: int) -> None:
    assert child.start(how).wait(WAIT_S) == code


def test_a_port_that_is_taken_is_named(child: Child) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = child.start(port=port)
        _, said = process.communicate(timeout=WAIT_S)
    assert process.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use; choose another port" in said
    assert not child.url_file.exists()


def test_it_ends_when_the_launcher_that_started_it_is_gone(child: Child) -> None:
    """Its parent is not the one that it was told: as when that one was killed."""
    process = child.start(environment={PARENT_VARIABLE: "1"})
    assert process.wait(WAIT_S) == 0


class Hasty(Connection):
    head_s = 0.5


HEAD = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize("sent", [b"", HEAD[:-10], HEAD + HEAD[:10]])
def test_a_connection_without_a_whole_head_is_closed(sent: bytes) -> None:
    app = create_app("test", ready=lambda: None, keys=None, limits=PLENTY)
    with listening(app, connection=Hasty) as url:
        place = urlsplit(url)
        with socket.create_connection((str(place.hostname), place.port or 80), timeout=WAIT_S) as idle:
            idle.sendall(sent)
            with idle.makefile("rb") as answered:
                assert answered.read().count(b"HTTP/1.1 200") == sent.count(HEAD)


def test_an_answer_may_take_longer_than_its_question() -> None:
    app = create_app("test", ready=lambda: None, keys=None, limits=PLENTY)

    @app.get("/slow")
    def slow() -> str:
        time.sleep(1.2 * Hasty.head_s)
        return "answered in full"

    with listening(app, connection=Hasty) as url:
        assert httpx2.get(f"{url}/slow", trust_env=False).json() == "answered in full"


def test_a_service_may_have_more_connections_than_a_shell_lets_it() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
        allow_open_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (min(OPEN_FILES, hard), hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
