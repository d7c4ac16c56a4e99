"""The login of the page, without a browser."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from services.inspector.app import build_app
from services.inspector.ingest import Ingest
from services.inspector.store.store import Store
from shared.errors import UnavailableError
from shared.http.guard import RETRY_AFTER_S
from tests.fakes.access import LOCAL
from tests.unit.inspector.told import EventLog, config

KEY = "open-sesame"
OURS = {"origin": LOCAL}


@pytest.fixture
def keyed(store: Store, ingest: Ingest, log: EventLog, tmp_path: Path) -> Iterator[TestClient]:
    app = build_app(config(tmp_path, KEY), store, ingest, log, threading.Event())
    with TestClient(app, follow_redirects=False, base_url=LOCAL) as opened:
        yield opened


@pytest.mark.parametrize(
    ("wanted", "led_to"),
    [
        ("/run", "/run"),
        ("/feedback/1?q=x", "/feedback/1?q=x"),
        ("https://evil.invalid/", "/"),
        ("//evil.invalid/", "/"),
        ("/\\evil.invalid/", "/"),
        ("javascript:alert(1)", "/"),
        ("//[", "/"),
        ("http://[", "/"),
        ("/[", "/["),
        ("/a\r\nset-cookie: x=y", "/"),
        ("/?q=" + "x" * 4500, "/?q=" + "x" * 4500),
        ("/?q=" + "x" * 9000, "/"),
        ("", "/"),
    ],
)
def test_a_login_leads_nowhere_else(keyed: TestClient, wanted: str, led_to: str) -> None:
    answer = keyed.post("/login", data={"key": KEY, "next": wanted}, headers=OURS)
    assert (answer.status_code, answer.headers["location"]) == (303, led_to)


def test_a_wrong_key_begins_no_session(keyed: TestClient) -> None:
    answer = keyed.post("/login", data={"key": "wrong", "next": "/"}, headers=OURS)
    assert (answer.status_code, answer.headers.get("set-cookie")) == (403, None)
    assert keyed.get("/").status_code == 401


def test_without_keys_there_is_nothing_to_log_in_for(client: TestClient) -> None:
    assert client.get("/login", follow_redirects=False).headers["location"] == "/"
    assert "Log out" not in client.get("/").text


def test_errors_are_pages_for_who_reads_pages(client: TestClient) -> None:
    page = client.get("/feedback/99", headers={"accept": "text/html"})
    assert (page.status_code, page.headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert "there is no exchange 99" in page.text
    for path, headers in (
        ("/feedback/99", {"accept": "*/*"}),
        ("/v1/feedback/99", {"accept": "text/html"}),
        ("/feedback/99", {"accept": "text/html", "hx-request": "true"}),
    ):
        assert "no exchange 99" in client.get(path, headers=headers).json()["error"]["message"]


@pytest.mark.parametrize(
    ("error", "header"),
    [
        (RuntimeError("told to break"), ("connection", "close")),
        (UnavailableError("away"), ("retry-after", str(RETRY_AFTER_S))),
    ],
    ids=["broken", "away"],
)
def test_a_page_says_in_its_headers_what_json_says(
    client: TestClient, error: Exception, header: tuple[str, str]
) -> None:
    def fails() -> None:
        raise error

    assert isinstance(client.app, FastAPI)
    client.app.get("/fails")(fails)
    reader = TestClient(client.app, base_url=LOCAL, raise_server_exceptions=False)
    name, value = header
    for accept, kind in (("text/html", "text/html; charset=utf-8"), ("*/*", "application/json")):
        answer = reader.get("/fails", headers={"accept": accept})
        assert (answer.headers["content-type"], answer.headers.get(name)) == (kind, value)


def test_who_checks_a_login_link_does_not_use_it_up(keyed: TestClient) -> None:
    link = keyed.post("/v1/login-link", headers={"authorization": f"Bearer {KEY}"}).json()["path"]
    assert keyed.head(link).status_code == 200
    assert keyed.get(link).status_code == 303
    assert keyed.get(link).status_code == 403


@pytest.mark.parametrize(("said", "secure"), [(None, False), ("https", True), ("HTTPS, http", True), ("http", False)])
def test_a_session_begun_behind_a_proxy_with_tls_is_never_sent_without(
    keyed: TestClient, said: str | None, secure: bool
) -> None:
    """Whether or not uvicorn takes it for one: an Ingress is a pod of any address."""
    headers = OURS if said is None else {**OURS, "x-forwarded-proto": said}
    answer = keyed.post("/login", data={"key": KEY, "next": "/"}, headers=headers)
    assert ("; Secure" in answer.headers["set-cookie"]) == secure
