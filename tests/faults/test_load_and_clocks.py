"""Nobody to take the work, many connections that do nothing, clocks that jump: everything goes on or waits."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest

from shared.bus.keys import BROKER, LEADER, RESULTS, STUDENTS, TRAINER, jobs, train
from shared.bus.redis import RedisBus
from shared.contracts.jobs import JobKind, JobStarted
from shared.contracts.run import Status
from tests.fakes.broker import THREE, BrokerBench
from tests.fakes.deployment import ScriptedDeployment
from tests.fakes.valkey import ValkeyServer
from tests.fakes.waiting import WAIT_S

IDLE = 200
SLOW = 50


@pytest.mark.parametrize("overrides", [(), THREE], ids=["two", "three"])
def test_f14_without_trainers_the_broker_issues_no_more_and_goes_on_when_they_are_back(
    tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    bench = BrokerBench(tmp_path, overrides)
    names = bench.settings.names
    for trainer in bench.trainers.values():
        trainer.held = True
    bench.run(lambda _: all(bench.workers.queue_depth(train(name), TRAINER) == (1, 0) for name in names))
    bench.settle()
    before = bench.state
    for _ in range(3):
        bench.clock.now_s += 60
        bench.turn()
    assert all(bench.workers.queue_depth(train(name), TRAINER) == (1, 0) for name in names)
    assert all(bench.workers.queue_depth(jobs(name, kind), STUDENTS) == (0, 0) for name in names for kind in JobKind)
    assert bench.state.steps == before.steps == dict.fromkeys(names, 0)
    for trainer in bench.trainers.values():
        trainer.held = False
    assert bench.finish().status is Status.DONE


@pytest.fixture
def service(tmp_path: Path) -> Iterator[str]:
    """The URL of a service in a process of its own."""
    url_file = tmp_path / "url"
    command = [sys.executable, "-m", "tests.fakes.serving_child", "0", str(url_file), "works"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + WAIT_S
    while not url_file.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    yield url_file.read_text()
    process.terminate()
    process.wait(timeout=WAIT_S)


def test_f29_probes_answer_beside_idle_and_slow_connections(service: str) -> None:
    host, port = service.removeprefix("http://").split(":")
    with ExitStack() as open_, httpx2.Client(base_url=service, timeout=10, trust_env=False) as client:
        for number in range(IDLE + SLOW):
            connection = open_.enter_context(socket.create_connection((host, int(port)), timeout=10))
            if number >= IDLE:
                connection.sendall(b"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\nX-Sl")
        for path in ("/livez", "/readyz", "/metrics"):
            assert client.get(path).status_code == 200
        assert client.get("/slow").json() == {"answered": "in full"}


@pytest.mark.slow
def test_f29_a_run_under_idle_and_slow_clients_ends_as_undisturbed(
    tmp_path: Path, tiny_model: Path, undisturbed: dict[str, str]
) -> None:
    running = ScriptedDeployment(tmp_path, "loaded", tiny_model)
    try:
        deployment = running.launcher.deployment
        assert deployment is not None and deployment.broker is not None and deployment.inspector is not None
        urls = [deployment.broker.url, deployment.inspector.url, *(student.url for student in deployment.students)]
        places = [(host, int(port)) for host, port in (url.removeprefix("http://").split(":") for url in urls)]
        with ExitStack() as open_, httpx2.Client(timeout=10, trust_env=False) as client:
            for number in range(IDLE + SLOW):
                connection = open_.enter_context(socket.create_connection(places[number % len(places)], timeout=10))
                if number >= IDLE:
                    connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\nX-Sl")
            running.until_training()
            assert [client.get(f"{url}{probe}").status_code for url in urls for probe in ("/livez", "/readyz")] == [
                200
            ] * (2 * len(urls))
            running.assert_done(undisturbed)
    finally:
        running.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    running = ValkeyServer(data_dir=tmp_path / "valkey", persist=False)
    running.start()
    yield running.connection_url
    running.stop()


@pytest.mark.parametrize("jump_s", [-86_400.0, 86_400.0], ids=["back", "ahead"])
def test_f30_leases_do_not_follow_the_local_clock(server: str, jump_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, other = (RedisBus(server, "clocks", lease_s=30.0) for _ in range(2))
    ours.create_queue(RESULTS, BROKER)
    ours.publish(RESULTS, JobStarted(job_id="j", student="a", replica="0", attempt=1))
    (held,) = ours.take([(RESULTS, BROKER)], "ours", limit=1, block_s=0)
    fence = ours.acquire_lease(LEADER, "ours", ttl_s=30)
    assert fence is not None
    now, monotonic = time.time, time.monotonic
    monkeypatch.setattr(time, "time", lambda: now() + jump_s)
    monkeypatch.setattr(time, "monotonic", lambda: monotonic() + max(jump_s, 0.0))
    assert other.take([(RESULTS, BROKER)], "other", limit=1, block_s=0) == []
    assert other.acquire_lease(LEADER, "other", ttl_s=30) is None
    assert ours.renew([held]) == [held]
    assert ours.renew_lease(LEADER, "ours", fence, ttl_s=30) is True
    assert ours.complete(held) is True
    for bus in (ours, other):
        bus.close()
