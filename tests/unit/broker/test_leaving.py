"""A client that leaves the broker: what was asked of a student for it is called off, on every way of asking."""

import asyncio
import threading
from pathlib import Path

import httpx2
import pytest

from shared.contracts.heartbeats import Heartbeat
from tests.fakes.broker import BrokerBench
from tests.fakes.broker_api import broker_app
from tests.fakes.listening import listening
from tests.fakes.student_server import serving
from tests.fakes.waiting import WAIT_S

MESSAGES = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"model": "a", "messages": MESSAGES}),
        ("/v1/chat/completions", {"model": "a", "messages": MESSAGES, "stream": True}),
        ("/v1/chat/completions", {"model": "peers", "messages": MESSAGES, "stream": True}),
        ("/v1/peers/ask", {"problem": "hi"}),
    ],
)
def test_a_client_that_leaves_takes_its_question_along(path: str, body: dict[str, object], tmp_path: Path) -> None:
    bench = BrokerBench(tmp_path)
    with serving("a") as student, listening(broker_app(bench)) as url:
        student.holds = True
        beat = Heartbeat(service="student-a", replica="0", state="ready", url=student.url, at=0.0)
        bench.workers.beat(beat, ttl_s=60)
        asyncio.run(ask_and_leave(url + path, body, student.asking))
        assert student.left.wait(WAIT_S), "the student was not told that the client is gone"


async def ask_and_leave(url: str, body: dict[str, object], leave: threading.Event) -> None:
    """Ask, and close the connection once `leave` is set, without an answer."""
    async with httpx2.AsyncClient(trust_env=False, timeout=WAIT_S) as client:
        asking = asyncio.create_task(client.post(url, json=body))
        assert await asyncio.to_thread(leave.wait, WAIT_S), "the student was not asked"
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        assert asking.cancelled()
