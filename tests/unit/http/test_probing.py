"""What a container's health check finds."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.http.probing import TIMEOUT_S, problems
from tests.fakes.ipv6 import needs_ipv6
from tests.fakes.listening import deaf_port
from tests.fakes.waiting import wait_until

PROBE = [sys.executable, "-m", "shared.http.probing"]
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def host() -> str:
    return "127.0.0.1"


@pytest.fixture
def how() -> str:
    return "works"


@pytest.fixture
def service(tmp_path: Path, host: str, how: str) -> Iterator[str]:
    """The port of a real service."""
    url = tmp_path / "url"
    command = [sys.executable, "-m", "tests.fakes.serving_child", "0", str(url), how, host]
    with subprocess.Popen(command, cwd=ROOT) as running:
        wait_until(url.exists, "the service's URL")
        yield url.read_text().rpartition(":")[2]
        running.terminate()


def probed(*addresses: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROBE, *addresses], cwd=ROOT, env=variables, capture_output=True, text=True, timeout=30, check=False
    )


def test_a_service_that_is_ready_is_well_also_where_it_listens_on_every_address(service: str) -> None:
    for host in ("127.0.0.1", "0.0.0.0"):
        done = probed(OPCOD_PORT=service, OPCOD_HOST=host, http_proxy="http://127.0.0.1:9")
        assert done.returncode == 0, done.stderr


@needs_ipv6
@pytest.mark.parametrize("host", ["::1"])
def test_so_it_is_on_ipv6(service: str, host: str) -> None:
    for listening in (host, "::"):
        done = probed(OPCOD_PORT=service, OPCOD_HOST=listening)
        assert done.returncode == 0, done.stderr


def test_one_that_is_not_there_is_not_well_and_the_reason_is_told() -> None:
    with deaf_port() as deaf:
        done = probed(OPCOD_PORT=str(deaf))
    assert done.returncode == 1
    assert f"http://127.0.0.1:{deaf}/readyz" in done.stderr


def test_a_container_that_serves_nothing_is_well() -> None:
    assert probed().returncode == 0


def test_of_services_that_are_named_each_must_be_well_and_those_that_are_not_are_told(service: str) -> None:
    with deaf_port() as deaf:
        well, gone = f"http://127.0.0.1:{service}", f"http://127.0.0.1:{deaf}"
        assert probed(well, well, OPCOD_PORT=str(deaf)).returncode == 0
        done = probed(gone, well)
    assert done.returncode == 1
    assert f"{gone}/readyz" in done.stderr and well not in done.stderr


@pytest.mark.parametrize("how", ["late"])
def test_it_waits_until_a_service_is_ready(service: str) -> None:
    address = f"http://127.0.0.1:{service}"
    assert "503: Service Unavailable: no version is loaded yet" in "".join(problems([address]))
    assert problems([address], wait_s=20) == []


@pytest.mark.parametrize("how", ["never"])
def test_what_is_not_ready_after_so_long_is_told_with_its_own_words(service: str) -> None:
    address = f"http://127.0.0.1:{service}"
    done = probed("--wait", "0.1", address)
    assert done.returncode == 1
    assert done.stderr.startswith("waited 0.1 s; ") and "no version is loaded yet" in done.stderr.splitlines()[-1]
    began_s = time.monotonic()
    assert problems([address], wait_s=1.5) and time.monotonic() - began_s < 1.5 + TIMEOUT_S
