"""Whatever comes to the services: an answer below 500, or 503 for what is away; refusals in OpenAI's shape, no secret.

Probes are left out: they take nothing, and have a shape of their own.
"""

import asyncio
import re
from contextlib import ExitStack
from urllib.parse import quote

from fastapi import FastAPI
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from shared.clock import SystemClock
from shared.contracts.http import ErrorResponse
from shared.http.guard import OPEN_PATHS
from shared.http.sessions import Sessions
from tests.fakes.access import routes_of
from tests.fakes.in_process import broker, inspector, student
from tests.fuzz.asgi import Answer, Headers, ask
from tests.fuzz.harness import SECRET, Fuzz, require_fit_to_show
from tests.fuzz.mutation import Json, damaged, json_like
from tests.unit.inspector.told import RUN

JSON = (b"content-type", b"application/json")
NAMED = (b"host", b"localhost")
NOBODY = "http://127.0.0.1:1"
DEEDS = ("socket.connect", "socket.getaddrinfo", "open", "os.mkdir", "os.rename", "os.remove")
"""That services are there to do: they keep what they were told, and ask each other."""

CHAT = {
    "model": "a",
    "messages": [
        {"role": "system", "content": "Be short.", "name": "x"},
        {"role": "user", "content": [{"type": "text", "text": "2 + 2?"}]},
        {"role": "assistant", "content": "4", "refusal": None, "tool_calls": []},
    ],
    "n": 2,
    "temperature": 0.5,
    "top_p": 0.9,
    "max_completion_tokens": 4,
    "seed": 3,
    "stop": ["x"],
    "logprobs": True,
    "top_logprobs": 2,
    "response_format": {"type": "text"},
    "stream": False,
    "metadata": {"a": "b"},
    "frequency_penalty": 0,
}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
BODIES: tuple[Json, ...] = (
    CHAT,
    CHAT | {"stream": True, "stream_options": {"include_usage": True}},
    CHAT | {"model": "peers"},
    CHAT | {"response_format": SCHEMA},
    {"problem": "2 + 2?", "response": "5", "peer_domain": "physics", "agent_domain": "chemistry", "seed": 1},
    {"problem": "2 + 2?", "first": "a", "exchanges": 1, "seed": 1},
    {"reason": "why not", "tutor": "b"},
    {"reason": "why not"},
)
QUERIES = (
    *("before=2&limit=5", "after=1", "q=force&student=a", "verdict=match&step=1", "format=jsonl", "once=x&next=/run"),
    *("change=fixed&domain=physics", "after=1-0&limit=3", "after=1.1", "asked=flag", "correct=true&round=1"),
)
FORMS = ("key=x&next=/feed", "problem=2%20%2B%202&first=a", "reason=why", "tutor=b&reason=x")
IN_PLACE = ("1", "2", "a", "a@v0", "flag", RUN, "a.s1.p1.0", "9" * 30, "..", "%00", "%2F", "%FF", "x" * 300)


@st.composite
def requests(draw: DrawFn, app: FastAPI) -> tuple[str, str, list[tuple[bytes, bytes]], bytes]:
    """One of the app's own routes, with whatever stands for its parts."""
    route = draw(st.sampled_from([each for each in routes_of(app) if each.path not in OPEN_PATHS]))
    method = draw(st.sampled_from(sorted(route.methods or ())))
    path = re.sub(r"\{\w+(:\w+)?\}", lambda _: draw(st.sampled_from(IN_PLACE)), str(route.path))
    query = draw(st.just(b"") | st.sampled_from(QUERIES).map(str.encode).flatmap(damaged))
    headers = [NAMED]
    body = b""
    if method == "POST":
        kind = draw(st.sampled_from(("json", "json", "json", "form", "none")))
        if kind == "form":
            headers.append((b"content-type", b"application/x-www-form-urlencoded"))
            body = draw(st.sampled_from(FORMS).map(str.encode).flatmap(damaged))
        elif kind == "json":
            headers.append(JSON)
            body = draw(json_like(*BODIES))
    if draw(st.booleans()):
        headers.append((b"accept", draw(st.sampled_from((b"text/html", b"text/event-stream", b"*/*")))))
    if draw(st.integers(0, 5)) == 0:
        headers.append((b"last-event-id", draw(in_a_header(b"1-0"))))
    return method, f"{path}?{quote(query, safe='=&%+/:')}" if query else path, headers, body


def test_services(fuzz: Fuzz) -> None:
    """Bodies in JSON and forms, queries, parts of paths: every route of student, broker and inspector."""
    with ExitStack() as stack, asyncio.Runner() as runner:
        (fuzz.place / "inspector").mkdir()
        apps = {
            "student": stack.enter_context(student(fuzz.place / "student")),
            "broker": stack.enter_context(broker(fuzz.place / "broker")),
            "inspector": stack.enter_context(inspector(fuzz.place / "inspector", broker_url=NOBODY)),
        }

        def attempt(case: tuple[str, tuple[str, str, Headers, bytes]]) -> None:
            service, request = case
            answer = fuzz.reads(lambda: runner.run(ask(apps[service], *request)), *DEEDS)
            assert answer is not None
            require_proper(answer)

        fuzz.run(
            st.one_of([st.tuples(st.just(name), requests(app)) for name, app in apps.items()]), attempt, examples=300
        )


def test_headers(fuzz: Fuzz) -> None:
    """Host, Origin, cookies, keys: nobody comes in with a damaged one, and no answer shows a key."""
    cookie = Sessions(RUN, SystemClock()).cookie.encode()
    good: dict[bytes, bytes] = {
        b"host": b"localhost:8000",
        b"origin": b"http://localhost:8000",
        b"sec-fetch-site": b"same-origin",
        b"authorization": b"Bearer " + SECRET.encode(),
        b"cookie": b"a=b; " + cookie + b'="' + SECRET.encode() + b'"; c=d',
        b"content-type": b"application/json; charset=utf-8",
        b"x-request-id": b"r-1",
        b"accept": b"text/html",
        b"x-forwarded-for": b"10.0.0.1",
        b"transfer-encoding": b"chunked",
        b"last-event-id": b"1-0",
    }

    @st.composite
    def cases(draw: DrawFn) -> tuple[bool, str, str, list[tuple[bytes, bytes]]]:
        names = draw(st.lists(st.sampled_from(sorted(good)), max_size=6))
        headers = [(name, draw(st.just(good[name]) | in_a_header(good[name]))) for name in names]
        method = draw(st.sampled_from(("GET", "POST", "HEAD", "OPTIONS", "PUT")))
        target = draw(st.sampled_from(("/v1/feedback", "/", "/login", "/logout", "/v1/silence", "/v1/stream")))
        return draw(st.booleans()), method, target, headers

    with asyncio.Runner() as runner, ExitStack() as stack:
        (fuzz.place / "keyed").mkdir()
        (fuzz.place / "open").mkdir()
        apps = {
            True: stack.enter_context(inspector(fuzz.place / "keyed", key=SECRET, broker_url=NOBODY)),
            False: stack.enter_context(inspector(fuzz.place / "open", broker_url=NOBODY)),
        }

        def attempt(case: tuple[bool, str, str, list[tuple[bytes, bytes]]]) -> None:
            keyed, method, target, headers = case
            body = b'{"tutor": "b", "reason": "why"}' if method == "POST" else b""
            answer = fuzz.reads(lambda: runner.run(ask(apps[keyed], method, target, headers, body)), *DEEDS)
            assert answer is not None
            require_proper(answer)
            told = {word.partition(b" ")[2] for name, word in headers if name == b"authorization"}
            if keyed and target.startswith("/v1/") and SECRET.encode() not in told:
                assert answer.status >= 400 or answer.status == 303, "let in without the key"

        fuzz.run(cases(), attempt, examples=400)


def in_a_header(value: bytes) -> SearchStrategy[bytes]:
    """Damaged, as far as a server takes it for a header's value."""
    return damaged(value).map(lambda data: re.sub(rb"[\x00-\x08\x0a-\x1f\x7f]", b"", data).strip()[:8000])


def require_proper(answer: Answer) -> None:
    shown = answer.body.decode(errors="replace")
    assert answer.status < 500 or answer.status == 503, f"{answer.status}: {shown:.500}"
    for value in answer.headers.values():
        require_fit_to_show(value)
    assert '"server_error"' not in shown, f"a stream that broke off: {shown:.500}"
    if answer.status < 400:
        return
    if answer.headers.get("content-type", "").startswith("text/html"):
        require_fit_to_show(re.sub(r"(?s)<[^>]*>|\s+", " ", shown))
        return
    if answer.body:
        require_fit_to_show(ErrorResponse.model_validate_json(answer.body).error.message)
