"""More requests that wait for a Redis that is away than a service has threads: probes, and all that needs no Redis,
answer at once; who waited is told so within the deadlines."""

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from shared.config.loading import load_settings, to_toml
from tests.fakes.service_process import start_service
from tests.fakes.waiting import WAIT_S

WAITING = 60
DEADLINE_S = 10.0
"""Of the requests that wait: on a busy machine, too, all others are answered within it."""

END_S = WAIT_S
PROBES = {"/livez": 200, "/readyz": 503, "/metrics": 200}


@pytest.fixture
def no_redis() -> Iterator[str]:
    """A port where nobody listens, kept from others while the test runs."""
    with socket.socket() as kept:
        kept.bind(("127.0.0.1", 0))
        yield f"redis://127.0.0.1:{kept.getsockname()[1]}"


@pytest.mark.parametrize(
    ("service", "waiting", "others"),
    [
        ("broker", "/v1/models", {"/v1/runs/r1": 503, "/v1/nothing": 404, "/openapi.json": 200}),
        ("inspector", "/v1/run", {"/v1/feedback": 200, "/": 200, "/login": 303, "/v1/nothing": 404}),
    ],
)
def test_what_needs_no_redis_answers_while_requests_wait_for_it(
    tmp_path: Path, no_redis: str, service: str, waiting: str, others: dict[str, int]
) -> None:
    settings = load_settings(preset="smoke", overrides=[f"bus.deadline_s={DEADLINE_S}"], environ={})
    (tmp_path / "config.toml").write_text(to_toml(settings))
    process, url = start_service(service, run="r1", run_dir=tmp_path, redis_url=no_redis)
    try:
        asyncio.run(_answers_beside(url, waiting, PROBES | others))
    finally:
        process.kill()
        process.wait(timeout=END_S)


async def _answers_beside(url: str, waiting: str, answered: dict[str, int]) -> None:
    limits = httpx2.Limits(max_connections=WAITING)
    async with (
        httpx2.AsyncClient(base_url=url, trust_env=False, timeout=END_S, limits=limits) as crowd,
        httpx2.AsyncClient(base_url=url, trust_env=False, timeout=END_S) as client,
    ):
        queue = [asyncio.create_task(crowd.get(waiting)) for _ in range(WAITING)]
        await asyncio.sleep(0.5)
        assert not any(task.done() for task in queue)
        for path, status in answered.items():
            assert (path, (await client.get(path)).status_code) == (path, status)
        assert not any(task.done() for task in queue)
        assert {answer.status_code for answer in await asyncio.gather(*queue)} <= {200, 503}
