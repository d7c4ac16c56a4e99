"""What every HTTP service does alike: probes, the key, limits of bodies, request ids, the shape of errors."""

from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient
from pydantic import BaseModel

from shared.errors import ConfigError, FencedError, OpcodError, StorageError, UnavailableError
from shared.http import check_binding, create_app

KEY = "open-sesame"
LIMIT = 100


class Body(BaseModel):
    text: str


def client(
    *, key: str | None = None, ready: Callable[[], str | None] = lambda: None, error: OpcodError | None = None
) -> TestClient:
    app = create_app("test", ready=ready, key=key, max_body_bytes=LIMIT)

    @app.get("/fails")
    def fails() -> None:
        assert error is not None
        raise error

    @app.post("/echo")
    def echo(body: Body) -> Body:
        return body

    return TestClient(app)


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
    answer = client(key=KEY).post("/echo", json={"text": "hi"}, headers={"authorization": header})
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
    body = {"message": str(error), "type": kind, "code": str(status), "param": None}
    assert (answer.status_code, answer.json()) == (status, {"error": body})
    assert answer.headers.get("retry-after") == ("5" if status == 503 else None)


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nowhere", 404), ("GET", "/echo", 405), ("POST", "/echo", 422)]
)
def test_so_have_the_frameworks_own(method: str, path: str, status: int) -> None:
    answer = client().request(method, path, json={"txt": "hi"} if method == "POST" else None)
    assert (answer.status_code, answer.json()["error"]["type"]) == (status, "invalid_request_error")


def test_a_bad_field_is_named() -> None:
    error = client().post("/echo", json={"text": 3}).json()["error"]
    assert (error["param"], error["message"]) == ("text", "text: Input should be a valid string")


def test_a_request_keeps_its_id_and_gets_one_otherwise() -> None:
    api = client()
    assert api.get("/livez", headers={"x-request-id": "mine"}).headers["x-request-id"] == "mine"
    given = {api.get("/livez").headers["x-request-id"] for _ in range(2)}
    assert len(given) == 2
    assert len(api.get("/livez", headers={"x-request-id": "x" * 500}).headers["x-request-id"]) == 64


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
        check_binding(host, key)
        return
    with pytest.raises(ConfigError, match="OPCOD_KEY_FILE"):
        check_binding(host, key)


def test_an_unexpected_error_has_the_shape_of_any_other_and_tells_no_details() -> None:
    app = create_app("test", ready=lambda: None, key=None, max_body_bytes=LIMIT)

    @app.get("/breaks")
    def breaks() -> None:
        raise RuntimeError("a secret path")

    answer = TestClient(app, raise_server_exceptions=False).get("/breaks")
    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "server_error")
    assert "secret" not in answer.text
