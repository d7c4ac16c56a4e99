"""What every HTTP service does alike: probes, the key, limits of bodies, request ids, the shape of errors."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import BinaryIO, Self
from urllib.parse import urlsplit

import anyio
import httpx2
import pytest
from fastapi import Form
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from pydantic import BaseModel, model_validator

from shared.clock import SystemClock
from shared.errors import ConfigError, FencedError, OpcodError, StorageError, UnavailableError
from shared.http.access import AccessKeys, Limits, Scope, check_binding
from shared.http.app import ADMIN, ASK, READ, create_app
from shared.http.guard import Guard
from shared.http.sessions import LOGIN_PATH, Sessions
from shared.http.sse import EventStream, Frames
from tests.fakes.access import LOCAL, PLENTY, one_key
from tests.fakes.listening import listening

KEY = "open-sesame"
LIMIT = 100


class Body(BaseModel):
    text: str

    @model_validator(mode="after")
    def _a_word(self) -> Self:
        if not self.text:
            raise ValueError("text: expected some")
        if self.text == "?":
            raise ValueError("expected a word, got one: a mark")
        return self


def client(
    *, key: str | None = None, ready: Callable[[], str | None] = lambda: None, error: OpcodError | None = None
) -> TestClient:
    app = create_app("test", ready=ready, keys=one_key(key), limits=replace(PLENTY, max_body_bytes=LIMIT))

    @app.get("/fails")
    def fails() -> None:
        assert error is not None
        raise error

    @app.post("/echo")
    def echo(body: Body) -> Body:
        return body

    return TestClient(app, base_url=LOCAL)


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
def test_probes_need_no_key(path: str) -> None:
    assert client(key=KEY).get(path).status_code == 200


def test_a_service_that_is_not_ready_lives_and_says_why() -> None:
    waiting = client(ready=lambda: "loading a@v3")
    answer = waiting.get("/readyz")
    assert (answer.status_code, answer.json()["reason"]) == (503, "loading a@v3")
    assert waiting.get("/livez").status_code == 200


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (f"Bearer {KEY}", 200),
        (f"bearer {KEY}", 200),
        ("Bearer wrong", 401),
        (f"Basic {KEY}", 401),
        (KEY, 401),
        ("", 401),
        (b"Bearer \xff\xfe", 401),
    ],
)
def test_everything_else_needs_the_key(header: str | bytes, status: int) -> None:
    sent = header if isinstance(header, bytes) else header.encode()
    answer = client(key=KEY).post("/echo", json={"text": "hi"}, headers=[(b"authorization", sent)])
    assert answer.status_code == status


def test_an_unknown_path_does_not_tell_itself_without_the_key() -> None:
    assert client(key=KEY).get("/nowhere").status_code == 401
    assert client(key=KEY).get("/nowhere", headers={"authorization": f"Bearer {KEY}"}).status_code == 404


def test_a_body_over_the_limit_is_refused_before_it_is_read() -> None:
    answer = client().post("/echo", json={"text": "x" * LIMIT})
    assert answer.status_code == 413
    assert f"at most {LIMIT} are taken" in answer.json()["error"]["message"]


def test_a_body_without_a_length_is_refused() -> None:
    answer = client().post(
        "/echo", content=iter([b'{"text": ', b'"hi"}']), headers={"content-type": "application/json"}
    )
    assert (answer.status_code, answer.json()["error"]["type"]) == (411, "invalid_request_error")


def test_a_body_in_chunks_is_not_let_in_by_a_small_length_beside_it() -> None:
    large = b'{"text": "' + b"x" * LIMIT + b'"}'
    request = (
        b"POST /echo HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(large), large)
    )
    with listening(client().app) as url:  # type: ignore[arg-type]
        assert said_to(url, request).startswith(b"HTTP/1.1 411 ")


def said_to(url: str, request: bytes) -> bytes:
    """The whole answer to bytes that no client library would send."""
    place = urlsplit(url)
    with socket.create_connection((place.hostname, place.port), timeout=10) as connection:
        connection.sendall(request)
        with connection.makefile("rb") as answer:
            return answer.read()


@pytest.mark.parametrize("length", ["+5", "-5", "5 5", "5,5", "0x5", "1_0", "\xb2", "", "9" * 5000])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_a_length_that_is_no_number_is_the_callers_fault(method: str, length: str) -> None:
    answer = client().request(method, "/echo", headers=[(b"content-length", length.encode("latin-1"))])
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (UnavailableError("b is down"), 503, "unavailable_error"),
        (FencedError("another leads"), 503, "unavailable_error"),
        (ConfigError("expected a or b"), 400, "invalid_request_error"),
        (StorageError("torn file"), 500, "server_error"),
    ],
)
def test_errors_have_openais_shape(error: OpcodError, status: int, kind: str) -> None:
    answer = client(error=error).get("/fails")
    body = {"message": str(error), "type": kind, "code": None, "param": None}
    assert (answer.status_code, answer.json()) == (status, {"error": body})
    assert answer.headers.get("retry-after") == ("5" if status == 503 else None)


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nowhere", 404), ("GET", "/echo", 405), ("POST", "/echo", 422)]
)
def test_so_have_the_frameworks_own(method: str, path: str, status: int) -> None:
    answer = client().request(method, path, json={"txt": "hi"} if method == "POST" else None)
    assert (answer.status_code, answer.json()["error"]["type"]) == (status, "invalid_request_error")
    assert answer.headers.get("allow") == ("POST" if status == 405 else None)


def test_a_bad_field_is_named() -> None:
    error = client().post("/echo", json={"text": 3}).json()["error"]
    assert (error["param"], error["message"]) == ("text", "text: Input should be a valid string, got 3")


@pytest.mark.parametrize(
    ("body", "param", "message", "code"),
    [
        ("", None, "body: Field required", "missing_required_parameter"),
        ("[]", None, "body: Input should be an object, got []", "invalid_value"),
        ('{"text": ""}', "text", "text: expected some", "invalid_value"),
        ('{"text": "?"}', None, "expected a word, got one: a mark", "invalid_value"),
    ],
)
def test_of_a_body_as_a_whole_only_a_field_is_named(body: str, param: str | None, message: str, code: str) -> None:
    error = client().post("/echo", content=body, headers={"content-type": "application/json"}).json()["error"]
    assert (error["param"], error["message"], error["code"]) == (param, message, code)


def test_a_request_keeps_its_id_and_gets_one_otherwise() -> None:
    api = client()
    assert api.get("/livez", headers={"x-request-id": "mine"}).headers["x-request-id"] == "mine"
    given = {api.get("/livez").headers["x-request-id"] for _ in range(2)}
    assert len(given) == 2
    assert len(api.get("/livez", headers={"x-request-id": "x" * 500}).headers["x-request-id"]) == 64
    odd = api.get("/livez", headers=[(b"x-request-id", "gr\xfc\xdfe".encode("latin-1"))]).headers["x-request-id"]
    assert odd.isascii() and len(odd) == 32


@pytest.mark.parametrize(
    ("key", "statuses"),
    [("reader", (200, 403, 403)), ("asker", (200, 200, 403)), ("chief", (200, 200, 200)), ("nobody", (401,) * 3)],
)
def test_a_key_may_do_what_its_scope_says_and_less(key: str, statuses: tuple[int, ...]) -> None:
    keys = AccessKeys({"reader": Scope.READ, "asker": Scope.ASK, "chief": Scope.ADMIN})
    app = create_app("test", ready=lambda: None, keys=keys, limits=PLENTY)
    for path, needed in (("/read", READ), ("/ask", ASK), ("/admin", ADMIN)):
        app.add_api_route(path, lambda: None, dependencies=needed)
    headers = {"authorization": f"Bearer {key}"}
    answers = [TestClient(app, base_url=LOCAL).get(path, headers=headers) for path in ("/read", "/ask", "/admin")]
    assert tuple(answer.status_code for answer in answers) == statuses
    if 403 in statuses:
        error = answers[-1].json()["error"]
        assert error["type"] == "permission_error"
        assert error["message"].startswith("expected a key with the scope admin, this one has")


def test_each_key_has_its_own_rate() -> None:
    keys = AccessKeys({"one": Scope.READ, "two": Scope.READ})
    app = create_app("test", ready=lambda: None, keys=keys, limits=replace(PLENTY, requests_per_minute=2))
    app.add_api_route("/read", lambda: None, dependencies=READ)
    api = TestClient(app, base_url=LOCAL)
    answers = [api.get("/read", headers={"authorization": f"Bearer {key}"}) for key in ("one", "one", "one", "two")]
    assert [answer.status_code for answer in answers] == [200, 200, 429, 200]
    assert answers[2].headers["retry-after"] == "5"
    assert api.get("/livez").status_code == 200


def test_strangers_share_one_rate_whatever_they_send_and_leave_nothing_behind() -> None:
    guarded: list[Guard] = []

    class Kept(Guard):
        def __init__(self, *given: object, **named: object) -> None:
            super().__init__(*given, **named)  # type: ignore[arg-type]
            guarded.append(self)

    app = create_app(
        "test",
        ready=lambda: None,
        keys=AccessKeys({"one": Scope.READ}),
        limits=replace(PLENTY, requests_per_minute=2),
        sessions=Sessions("r", SystemClock()),
    )
    app.add_api_route(LOGIN_PATH, lambda: None)
    layer = next(each for each in app.user_middleware if each.cls is Guard)
    layer.cls = Kept
    api = TestClient(app, base_url=LOCAL)
    answers = [api.get(LOGIN_PATH, headers={"authorization": f"Bearer guess-{number}"}) for number in range(3)]
    assert [answer.status_code for answer in answers][2] == 429
    assert api.get("/nothing", headers={"authorization": "Bearer one"}).status_code == 404
    assert guarded[0]._in_flight == {}


def test_a_stream_counts_as_in_flight_until_its_end() -> None:
    app = create_app("test", ready=lambda: None, keys=None, limits=Limits(LIMIT, 100, concurrent_requests=1))
    refused: list[int] = []

    @app.get("/stream")
    def stream() -> StreamingResponse:
        def lines() -> Iterator[str]:
            yield "first"
            refused.append(TestClient(app, base_url=LOCAL).get("/other").status_code)

        return StreamingResponse(lines())

    assert TestClient(app, base_url=LOCAL).get("/stream").status_code == 200
    assert refused == [429]
    assert TestClient(app, base_url=LOCAL).get("/other").status_code == 404


def test_a_body_that_does_not_come_ends_with_408_and_is_in_flight_no_more() -> None:
    limits = Limits(LIMIT, 100, concurrent_requests=1, body_s=0.1)
    app = create_app("test", ready=lambda: None, keys=None, limits=limits)

    @app.post("/echo")
    def echo(body: Body) -> Body:
        return body

    @app.post("/form")
    def form(word: str = Form()) -> str:
        return word

    kinds = {"/echo": "application/json", "/form": "application/x-www-form-urlencoded"}
    with listening(app) as url, httpx2.Client(base_url=url, trust_env=False, timeout=10) as others:
        for path, kind in kinds.items():
            with half_sent(url, path, kind) as answered:
                told = answered.read()
            assert told.startswith(b"HTTP/1.1 408 ") and b"connection: close" in told.lower()
            assert b"expected the whole body within 0.1 s" in told
            assert others.get("/nowhere").status_code == 404


@contextmanager
def half_sent(url: str, path: str, kind: str) -> Iterator[BinaryIO]:
    """The answer to a request of which four bytes of the body have come, and no more do."""
    place = urlsplit(url)
    head = f"POST {path} HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: {kind}\r\nContent-Length: 50\r\n\r\nkey="
    with socket.create_connection((str(place.hostname), place.port or 80), timeout=10) as sender:
        sender.sendall(head.encode())
        with sender.makefile("rb") as answered:
            yield answered


@pytest.mark.parametrize(
    ("host", "key", "allowed"),
    [
        ("127.0.0.1", None, True),
        ("localhost", None, True),
        ("::1", None, True),
        ("0.0.0.0", KEY, True),
        ("0.0.0.0", None, False),
    ],
)
def test_beyond_loopback_only_with_a_key(host: str, key: str | None, allowed: bool) -> None:
    if allowed:
        check_binding(host, one_key(key))
        return
    with pytest.raises(ConfigError, match="OPCOD_KEY_FILE"):
        check_binding(host, one_key(key))


def test_an_unexpected_error_has_the_shape_of_any_other_and_tells_no_details() -> None:
    app = create_app("test", ready=lambda: None, keys=None, limits=PLENTY)

    @app.get("/breaks")
    def breaks() -> None:
        raise RuntimeError("a secret path")

    answer = TestClient(app, raise_server_exceptions=False, base_url=LOCAL).get("/breaks")
    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "server_error")
    assert "secret" not in answer.text


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/openapi.json", "/nowhere", "/echo", "/fails"])
def test_head_is_get_without_the_body(path: str) -> None:
    api = client(error=UnavailableError("b is down"))
    got, head = api.get(path), api.head(path)
    assert (head.status_code, head.content) == (got.status_code, b"")
    assert head.headers["content-type"] == got.headers["content-type"]
    if path != "/metrics":  # they count themselves
        assert head.headers["content-length"] == got.headers["content-length"]


def test_head_needs_the_key_that_get_needs() -> None:
    assert client(key=KEY).head("/fails").status_code == 401


def test_head_of_a_stream_ends_and_leaves_nothing_open() -> None:
    app = create_app("test", ready=lambda: None, keys=None, limits=Limits(LIMIT, 100, concurrent_requests=1))

    @app.get("/stream")
    async def stream() -> EventStream:
        async def frames() -> Frames:
            while True:
                yield b": still here\n\n"
                await anyio.sleep(0.01)

        return EventStream(frames())

    with listening(app) as url, httpx2.Client(base_url=url, trust_env=False, timeout=10) as connection:
        for _ in range(3):  # over one connection, and with one request at a time
            head = connection.head("/stream")
            assert (head.status_code, head.headers["content-type"].partition(";")[0]) == (200, "text/event-stream")
        assert connection.get("/nowhere").status_code == 404
