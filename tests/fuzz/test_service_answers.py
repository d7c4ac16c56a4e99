"""Whatever answers in place of our own services, to the command line and to the inspector."""

import asyncio
from collections.abc import Iterator
from contextlib import closing, contextmanager

from fastapi import HTTPException
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from opcod.local.deployment import Deployment, Endpoint, ensure_key
from opcod.talk.client import Client, page_of
from services.inspector.http.broker import BrokerClient
from shared.config.loading import load_settings, to_toml
from shared.contracts.acting import Accepted, ReasonRequest
from shared.contracts.heartbeats import Heartbeat
from shared.contracts.http import AskRequest, PeersResponse
from shared.errors import OpcodError
from shared.http.access import Scope
from shared.http.remote import RemoteCalls
from tests.fuzz.harness import Fuzz
from tests.fuzz.mutation import Json, altered, json_like, written
from tests.fuzz.sayer import DEEDS, Sayer, an_answer

USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
ANSWER = {"stage": "answer", "student": "a", "version": "a@v1", "text": "4", "usage": USAGE}
FEEDBACK: dict[str, Json] = {
    **{"stage": "feedback", "exchange": 1, "student": "b", "version": "b@v1", "raw": "x", "concept": None},
    **{"verdict": "match", "delivered": "x", "usage": USAGE},
}
ERROR = {"error": {"message": "busy", "type": "server_error", "code": None, "param": None}}
EVENTS: tuple[tuple[bytes, Json], ...] = (
    (b"answer", ANSWER),
    (b"feedback", FEEDBACK),
    (b"revised", ANSWER | {"stage": "revised", "exchange": 1}),
    (b"error", ERROR),
)
PEER = {"name": "a", "strong_domain": "physics", "version": "a@v1", "scores": {"physics": 0.5}, "gap": None}
KINDS: dict[str, Json] = {
    "peers": {
        **{"run": "r", "status": "RUNNING", "round": 1},
        "peers": [PEER | {"cognizant": True, "replicas": 1, "url": None}],
    },
    "accepted": {"accepted": "x"},
    "act": {"accepted": "x"},
    "page": {"path": "/login?once=x", "expires_s": 600, "public_url": None},
}
STREAMS = ("events", "stages")


@st.composite
def answers(draw: DrawFn) -> tuple[str, bytes]:
    """A kind of answer and its bytes; also an error in the place of one."""
    kind = draw(st.sampled_from((*sorted(KINDS), *STREAMS)))
    if kind in STREAMS:
        told = draw(st.lists(st.sampled_from(EVENTS), min_size=1, max_size=4))
        lines = [b"event: %s\ndata: %s\n\n" % (name, written(draw(altered(stage)))) for name, stage in told]
        return kind, draw(an_answer(b"".join(lines), b"text/event-stream"))
    return kind, draw(an_answer(draw(json_like(KINDS[kind], KINDS[kind], ERROR)), b"application/json"))


def test_answers_of_services(fuzz: Fuzz) -> None:
    question, act = AskRequest(problem="2 + 2?"), ReasonRequest(reason="x")

    async def stages() -> list[object]:
        with passed_on():
            return [stage async for stage in asking.stages(question, Scope.ASK)]

    def acted() -> Accepted:
        with passed_on():
            return asking.act("/v1/x", act, Scope.ADMIN)

    def attempt(case: tuple[str, bytes]) -> None:
        kind, server.answer = case
        fuzz.reads(lambda: readers[kind](), *DEEDS)

    with Sayer() as server, asyncio.Runner() as runner, closing(Client(up(fuzz, server.url))) as client:
        deployment = up(fuzz, server.url)
        beat = Heartbeat(service="broker", replica="0", state="ready", url=server.url, at=1.0)
        asking = BrokerClient(lambda: [beat], None, RemoteCalls(5.0), answer_timeout_s=5.0)
        readers = {
            "peers": lambda: client.broker("GET", "/v1/peers", PeersResponse),
            "accepted": lambda: client.broker("POST", "/v1/x", Accepted, act),
            "act": acted,
            "page": lambda: page_of(deployment),
            "events": lambda: list(client.broker_events("/v1/peers/ask", question)),
            "stages": lambda: runner.run(stages()),
        }
        fuzz.run(answers(), attempt, examples=200)


@contextmanager
def passed_on() -> Iterator[None]:
    """The inspector answers its reader with the broker's own refusal."""
    try:
        yield
    except HTTPException as error:
        raise OpcodError(str(error.detail)) from error


def up(fuzz: Fuzz, url: str) -> Deployment:
    (fuzz.place / "config.toml").write_text(to_toml(load_settings(preset="smoke", environ={})))
    here = Endpoint(name="x", url=url)
    return Deployment(
        run="r",
        run_dir=fuzz.place,
        mode="run",
        key_file=ensure_key(fuzz.place),
        redis_url="redis://x",
        broker=here,
        inspector=here,
    )
