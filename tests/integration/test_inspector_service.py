"""The inspector as a process of its own on a real server: live viewers, kills, a server that goes away."""

import json
import queue
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx2
import pytest

from shared.bus.redis import RedisBus
from shared.config.loading import load_settings, to_toml
from shared.contracts.heartbeats import Heartbeat
from tests.fakes.forked import Forked
from tests.fakes.service_process import start_service
from tests.fakes.valkey import ValkeyServer
from tests.fakes.waiting import WAIT_S, wait_until
from tests.unit.inspector.told import RUN, feedback, ready, seal, status
from tests.unit.results.test_timeline import STEP


class Inspector:
    """One `python -m services.inspector`, started again on the same directory by `start`."""

    def __init__(self, run_dir: Path, redis_url: str) -> None:
        self.run_dir = run_dir
        self.redis_url = redis_url
        self.process: Forked | None = None
        self.url = ""

    def start(self) -> None:
        self.process, self.url = start_service("inspector", run=RUN, run_dir=self.run_dir, redis_url=self.redis_url)

    def end(self, number: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(timeout=WAIT_S)

    def get(self, path: str) -> httpx2.Response:
        return httpx2.get(self.url + path, timeout=10, trust_env=False)

    def stored(self) -> int:
        return len(self.get("/v1/events?limit=200").json()["items"])

    @contextmanager
    def viewer(self, after: str) -> Iterator["queue.Queue[str]"]:
        """Ids of the live events behind `after`, as they come, over one connection."""
        ids: queue.Queue[str] = queue.Queue()
        with httpx2.Client(timeout=WAIT_S, trust_env=False) as client:
            request = client.stream("GET", f"{self.url}/v1/stream", headers={"Last-Event-ID": after})
            with request as answer:
                assert answer.status_code == 200
                reader = threading.Thread(target=read_ids, args=(answer, ids), daemon=True)
                reader.start()
                yield ids


def read_ids(answer: httpx2.Response, ids: "queue.Queue[str]") -> None:
    try:
        for line in answer.iter_lines():
            if line.startswith("id: "):
                ids.put(line[4:])
    except (httpx2.HTTPError, httpx2.StreamError):
        return


def take(ids: "queue.Queue[str]", count: int) -> list[str]:
    return [ids.get(timeout=WAIT_S) for _ in range(count)]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ValkeyServer]:
    folder = tmp_path / "valkey"
    folder.mkdir()
    running = ValkeyServer(data_dir=str(folder), persist=True, appendonly="yes", appendfsync="always")
    running.start()
    yield running
    if running.is_running():
        running.stop()


@pytest.fixture
def bus(server: ValkeyServer) -> Iterator[RedisBus]:
    opened = RedisBus(server.connection_url, RUN, deadline_s=10.0)
    yield opened
    opened.close()


@pytest.fixture
def inspector(server: ValkeyServer, tmp_path: Path) -> Iterator[Inspector]:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "config.toml").write_text(to_toml(load_settings(preset="smoke", environ={})))
    service = Inspector(run_dir, server.connection_url)
    service.start()
    yield service
    if service.process is not None and service.process.poll() is None:
        service.process.kill()
        service.process.wait(timeout=WAIT_S)


def test_what_services_use_is_kept_over_the_time_of_the_steps(inspector: Inspector, bus: RedisBus) -> None:
    now_s = time.time()
    bus.beat(Heartbeat(service="trainer-a", replica="0", state="training", at=now_s), ttl_s=WAIT_S)
    for event in STEP:
        bus.emit(event.model_copy(update={"at": now_s - 10 + event.at}))
    wait_until(lambda: inspector.get("/v1/run").json()["usage"], "a heartbeat in the store")
    run = inspector.get("/v1/run").json()
    assert run["timeline"]["begin"] == pytest.approx(now_s)
    assert {point["service"] for point in run["usage"]} == {"inspector"}
    assert all(point["bytes"] > 10_000_000 and point["gpus"] is None for point in run["usage"])


def test_events_become_exchanges_and_a_heartbeat_is_seen(inspector: Inspector, bus: RedisBus) -> None:
    wait_until(lambda: inspector.get("/readyz").status_code == 200, "readiness")
    bus.emit(feedback(response="cut…", cut=True))
    seal(inspector.run_dir)
    bus.emit(ready())
    wait_until(lambda: inspector.stored() == 2, "two events")
    [item] = inspector.get("/v1/feedback?q=whole").json()["items"]
    assert (item["response"], item["cut"], item["sealed"]) == ("whole response", False, True)
    wait_until(lambda: any(beat.url == inspector.url for beat in bus.heartbeats()), "a heartbeat with the URL")
    assert b"opcod_inspector_events_total" in inspector.get("/metrics").content


def test_two_viewers_see_everything_and_one_resumes_without_gap(inspector: Inspector, bus: RedisBus) -> None:
    with inspector.viewer("0") as first:
        with inspector.viewer("0") as second:
            for number in range(20):
                bus.emit(status(number))
            seen = take(first, 20)
            assert take(second, 20) == seen
        for number in range(20, 40):
            bus.emit(status(number))
        seen += take(first, 20)
    with inspector.viewer(seen[19]) as again:
        assert take(again, 20) == seen[20:]
    assert len(set(seen)) == 40


def test_a_kill_neither_loses_nor_doubles(inspector: Inspector, bus: RedisBus) -> None:
    total = 1500
    emitter = threading.Thread(target=emit_exchanges, args=(bus, total))
    emitter.start()
    for enough in (100, 600, 1100):
        wait_until(partial(reached, inspector, enough), f"{enough} exchanges")
        inspector.end(signal.SIGKILL)
        inspector.start()
    emitter.join(timeout=WAIT_S)
    wait_until(partial(reached, inspector, total), "all exchanges")
    problems = [json.loads(line)["problem_id"] for line in inspector.get("/v1/export").text.splitlines()]
    assert problems == [f"p{number}" for number in range(total)]
    ids = all_ids(inspector)
    assert ids == [stream_id for stream_id, _ in bus.read_events("0", count=total + 1, block_s=0)]


def test_a_viewer_goes_on_after_the_inspector_was_killed(inspector: Inspector, bus: RedisBus) -> None:
    with inspector.viewer("0") as ids:
        bus.emit(status(1))
        [seen] = take(ids, 1)
        inspector.end(signal.SIGKILL)
    bus.emit(status(2))
    inspector.start()
    with inspector.viewer(seen) as ids:
        bus.emit(status(3))
        later = take(ids, 2)
    assert [seen, *later] == [stream_id for stream_id, _ in bus.read_events("0", count=10, block_s=0)]


def test_what_was_trimmed_meanwhile_is_a_gap(inspector: Inspector, bus: RedisBus) -> None:
    bus.emit(status(0))
    wait_until(lambda: inspector.stored() == 1, "the first event")
    inspector.end(signal.SIGKILL)
    for number in range(1, 6):
        bus.emit(status(number))
    bus.link.client.xtrim(bus.keys.events, maxlen=2, approximate=False)
    inspector.start()
    wait_until(lambda: inspector.stored() == 4, "the gap and what is left")
    kinds = [item["kind"] for item in inspector.get("/v1/events").json()["items"]]
    assert kinds == ["status", "gap", "status", "status"]


def test_a_log_that_is_damaged_is_filled_anew(inspector: Inspector, bus: RedisBus) -> None:
    bus.emit(status(0))
    wait_until(lambda: inspector.stored() == 1, "the first event")
    inspector.end(signal.SIGTERM)
    log = inspector.run_dir / "inspector" / "log.sqlite3"
    log.write_bytes(b"garbage" * 3000)
    bus.emit(status(1))
    inspector.start()
    wait_until(lambda: inspector.stored() == 2, "both events")
    assert inspector.get("/readyz").status_code == 200
    [aside] = log.parent.glob("log.sqlite3.broken-*")
    assert aside.read_bytes() == b"garbage" * 3000


def test_a_server_that_dies_is_503_on_readiness_only(inspector: Inspector, server: ValkeyServer, bus: RedisBus) -> None:
    bus.emit(status(0))
    wait_until(lambda: inspector.stored() == 1, "the first event")
    server.stop()
    wait_until(lambda: inspector.get("/readyz").status_code == 503, "503 on readiness")
    assert "did not answer" in inspector.get("/readyz").json()["reason"]
    assert inspector.get("/livez").status_code == 200
    assert inspector.stored() == 1


def test_a_server_emptied_under_it_is_read_on_with_a_gap(inspector: Inspector, bus: RedisBus) -> None:
    bus.emit(status(0))
    wait_until(lambda: inspector.stored() == 1, "the first event")
    bus.link.client.flushall()
    time.sleep(0.01)
    bus.emit(status(1))
    wait_until(lambda: inspector.stored() == 3, "the gap and the new event")
    assert [item["kind"] for item in inspector.get("/v1/events").json()["items"]] == ["status", "gap", "status"]


def test_sixty_five_streams_are_one_too_many_and_probes_still_answer(inspector: Inspector) -> None:
    with httpx2.Client(timeout=WAIT_S, trust_env=False, limits=httpx2.Limits(max_connections=100)) as client:
        requests = [client.stream("GET", f"{inspector.url}/v1/stream") for _ in range(65)]
        answers = [request.__enter__() for request in requests]
        assert [answer.status_code for answer in answers] == [200] * 64 + [429]
        assert inspector.get("/livez").status_code == 200
        for request in requests:
            request.__exit__(None, None, None)

    def free() -> bool:
        return "opcod_inspector_viewers 0.0" in inspector.get("/metrics").text

    wait_until(free, "all slots free again")


def test_sigterm_ends_it_with_a_viewer_connected(inspector: Inspector, bus: RedisBus) -> None:
    with inspector.viewer("0") as ids:
        bus.emit(status(0))
        take(ids, 1)
        began_s = time.monotonic()
        assert inspector.end(signal.SIGTERM) == 0
    assert time.monotonic() - began_s < 10.0, "the stream was waited for, not ended"


def emit_exchanges(bus: RedisBus, count: int) -> None:
    for number in range(count):
        bus.emit(feedback(f"p{number}"))


def reached(inspector: Inspector, exchanges: int) -> bool:
    return int(inspector.get("/v1/feedback?limit=1").json()["newest"]) >= exchanges


def all_ids(inspector: Inspector) -> list[str]:
    ids: list[str] = []
    after = "0"
    while True:
        page = inspector.get(f"/v1/events?after={after}").json()
        if not page["items"]:
            return ids
        ids += [item["id"] for item in page["items"]]
        after = page["cursor"]
