"""The ask page before a broker that takes its time, or answers something else."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx2
import pytest
from fastapi import FastAPI, HTTPException
from fastapi.responses import Response, StreamingResponse
from fastapi.testclient import TestClient

from services.inspector.http.broker import BrokerClient
from services.inspector.store.records import Entry
from services.inspector.store.store import Store
from shared.contracts.heartbeats import Heartbeat
from shared.contracts.http import Answered, AskRequest
from shared.http.access import Scope
from shared.http.remote import RemoteCalls
from shared.http.sse import EVENT_STREAM, frame
from tests.fakes.listening import listening
from tests.fakes.student_server import USAGE
from tests.fakes.waiting import WAIT_S
from tests.unit.inspector.told import EventLog, feedback

FIRST = Answered(student="a", version="a@v1", text="the first answer", usage=USAGE)


@dataclass
class Broker:
    """Tells `stages`, then nothing more until it is left. act: what it says of an act. asked: what was put to it."""

    stages: tuple[bytes, ...] = ()
    act: bytes = b""
    holds: bool = False
    asked: list[AskRequest] = field(default_factory=list)
    asking: threading.Event = field(default_factory=threading.Event)
    left: threading.Event = field(default_factory=threading.Event)

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.post("/v1/peers/ask")
        async def ask(request: AskRequest) -> StreamingResponse:
            self.asked.append(request)
            return StreamingResponse(self._told(), media_type=EVENT_STREAM)

        @app.post("/v1/feedback/{key}/flag", status_code=202)
        def flag() -> Response:
            return Response(self.act, 202)

        return app

    async def _told(self) -> AsyncIterator[bytes]:
        try:
            for stage in self.stages:
                yield stage
            self.asking.set()
            if self.holds:
                await asyncio.sleep(2 * WAIT_S)
        except asyncio.CancelledError:
            self.left.set()
            raise


@contextmanager
def up(broker: Broker, log: EventLog) -> Iterator[None]:
    with listening(broker.app()) as url:
        log.up = [Heartbeat(service="broker", replica="0", state="ready", url=url, at=0.0)]
        yield


@pytest.mark.parametrize("accept", [EVENT_STREAM, "text/html"])
@pytest.mark.parametrize("stages", [(), (frame(FIRST, event="answer"),)])
def test_a_reader_that_leaves_takes_the_question_along(
    accept: str, stages: tuple[bytes, ...], client: TestClient, log: EventLog
) -> None:
    broker = Broker(stages, holds=True)
    with up(broker, log), listening(client.app) as url:  # type: ignore[arg-type]
        asyncio.run(ask_and_leave(url + "/ask", accept, broker.asking))
        assert broker.left.wait(WAIT_S), "the broker was not told that the reader is gone"


async def ask_and_leave(url: str, accept: str, leave: threading.Event) -> None:
    async with httpx2.AsyncClient(trust_env=False, timeout=WAIT_S) as browser:
        asking = asyncio.create_task(browser.post(url, data={"problem": "hi"}, headers={"Accept": accept}))
        assert await asyncio.to_thread(leave.wait, WAIT_S), "the broker was not asked"
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        assert asking.cancelled()


def test_the_head_of_the_stream_does_not_wait_for_the_first_stage(client: TestClient, log: EventLog) -> None:
    """htmx gives up on an answer that has not begun."""
    broker = Broker(holds=True)
    with up(broker, log), listening(client.app) as url:  # type: ignore[arg-type]
        asked = httpx2.stream(
            "POST", url + "/ask", data={"problem": "hi"}, headers={"Accept": EVENT_STREAM}, trust_env=False
        )
        with asked as answer:
            assert (answer.status_code, answer.headers["content-type"]) == (200, f"{EVENT_STREAM}; charset=utf-8")


@pytest.mark.parametrize("accept", [EVENT_STREAM, "text/html"])
@pytest.mark.parametrize("wrong", [b"event: answer\ndata: {}\n\n", b"event: error\ndata: nothing known\n\n"])
def test_a_stage_of_another_version_is_told_after_those_before(
    accept: str, wrong: bytes, client: TestClient, log: EventLog
) -> None:
    with up(Broker((frame(FIRST, event="answer"), wrong)), log):
        answer = client.post("/ask", data={"problem": "hi"}, headers={"Accept": accept})
    assert answer.status_code == 200
    assert answer.text.index("the first answer") < answer.text.index("the broker answered something else")


def test_who_answers_and_who_gives_feedback_are_passed_on(client: TestClient, log: EventLog) -> None:
    broker = Broker((frame(FIRST, event="answer"),))
    with up(broker, log):
        for named in ({"first": "a", "tutor": "b"}, {"first": "b", "tutor": ""}, {}):
            assert client.post("/ask", data={"problem": "hi"} | named).status_code == 200
    assert [(asked.first, asked.tutor) for asked in broker.asked] == [("a", "b"), ("b", None), (None, None)]


def test_an_act_that_is_answered_with_something_else_is_an_error_in_words(
    client: TestClient, log: EventLog, store: Store
) -> None:
    store.append([Entry("1-0", feedback())], "1-0")
    with up(Broker(act=b'{"took": "it"}'), log):
        answer = client.post("/v1/feedback/1/flag", json={"reason": "x"})
    assert answer.status_code == 500
    assert "the broker answered something else than was asked for (accepted: " in answer.json()["error"]["message"]


def test_a_broker_that_gives_up_at_its_limit_is_heard() -> None:
    """Students have 0.1 s here; the broker's word comes later than that."""
    late = FastAPI()

    @late.post("/v1/peers/ask")
    async def ask() -> None:
        await asyncio.sleep(0.4)
        raise HTTPException(504, "student a did not answer within 0.1 s")

    with listening(late) as url:
        beats = [Heartbeat(service="broker", replica="0", state="ready", url=url, at=0.0)]
        client = BrokerClient(lambda: beats, None, RemoteCalls(1.0), answer_timeout_s=0.1)

        async def told() -> None:
            async for _ in client.stages(AskRequest(problem="hi"), Scope.ASK):
                pass

        with pytest.raises(HTTPException, match=r"504: .*student a did not answer within"):
            asyncio.run(told())
