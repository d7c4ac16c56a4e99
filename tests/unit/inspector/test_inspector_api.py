import json
import sqlite3
import threading
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from services.inspector.app import build_app
from services.inspector.ingest import Ingest
from services.inspector.store.records import Entry
from services.inspector.store.sealed import SealedBatches
from services.inspector.store.store import Store
from tests.fakes.access import LOCAL, routes_without_scope
from tests.fakes.threads import in_thread
from tests.fakes.waiting import wait_until
from tests.unit.inspector.told import RUN, EventLog, StillClock, config, feedback, revised, status

KEY = "open-sesame"


def test_every_route_says_which_scope_it_needs(store: Store, ingest: Ingest, tmp_path: Path) -> None:
    assert routes_without_scope(build_app(config(tmp_path), store, ingest, EventLog(), threading.Event())) == []


def fill(store: Store, count: int) -> None:
    entries = [Entry(f"{number}-0", feedback(f"p{number}")) for number in range(1, count + 1)]
    store.append(entries, f"{count}-0")


def problems(answer: dict[str, list[dict[str, str]]]) -> list[str]:
    return [item["problem_id"] for item in answer["items"]]


def test_pages_go_back_in_time_without_gap_or_double(client: TestClient, store: Store) -> None:
    fill(store, 7)
    seen: list[str] = []
    url: str | None = "/v1/feedback?limit=3"
    while url is not None:
        answer = client.get(url).json()
        seen += problems(answer)
        url = f"/v1/feedback?limit=3&before={answer['older']}" if answer["older"] else None
    assert seen == [f"p{number}" for number in range(7, 0, -1)]


def test_after_gives_what_came_since(client: TestClient, store: Store) -> None:
    fill(store, 2)
    newest = client.get("/v1/feedback").json()["newest"]
    fill(store, 6)
    page = client.get(f"/v1/feedback?after={newest}&limit=3").json()
    assert problems(page) == ["p5", "p4", "p3"]
    rest = client.get(f"/v1/feedback?after={page['newest']}&limit=3").json()
    assert problems(rest) == ["p6"]
    nothing = client.get(f"/v1/feedback?after={rest['newest']}").json()
    assert (nothing["items"], nothing["newest"]) == ([], rest["newest"])


def test_an_exchange_is_found_by_its_id_with_its_revision(client: TestClient, store: Store) -> None:
    store.append([Entry("1-0", feedback()), Entry("2-0", revised(change="broke"))], "2-0")
    [item] = client.get("/v1/feedback?change=broke&verdict=match").json()["items"]
    assert client.get(f"/v1/feedback/{item['id']}").json() == item
    assert item["revision"] == {"before": True, "after": False, "change": "broke", "text": "The force is 6 N."}


def test_events_are_paged_by_stream_id(client: TestClient, store: Store) -> None:
    store.append([Entry("1-0", status(1)), Entry("1-1", feedback()), Entry("2-0", status(2))], "2-0")
    page = client.get("/v1/events?limit=2").json()
    assert [(item["id"], item["kind"]) for item in page["items"]] == [("1-0", "status"), ("1-1", "feedback")]
    assert page["items"][1]["event"]["tutor"] == "b"
    rest = client.get(f"/v1/events?after={page['cursor']}").json()
    assert [item["id"] for item in rest["items"]] == ["2-0"]
    assert client.get("/v1/events?after=2-0").json() == {"items": [], "cursor": "2-0"}


def test_a_cursor_of_an_earlier_log_gets_a_gap_and_all_of_this_one(client: TestClient, store: Store) -> None:
    assert client.get("/v1/events?after=9-0").json() == {"items": [], "cursor": "9-0"}
    store.append([Entry("1-0", status(1)), Entry("2-0", status(2))], "2-0")
    page = client.get("/v1/events?after=9-0").json()
    assert [item["id"] for item in page["items"]] == ["1-0.gap", "1-0", "2-0"]
    gap = page["items"][0]["event"]
    assert (gap["kind"], gap["after"], gap["before"], gap["reason"]) == ("gap", "9-0", "1-0", "restarted")
    first = client.get("/v1/events?after=9-0&limit=1").json()
    assert [item["kind"] for item in first["items"]] == ["gap"]
    rest = client.get(f"/v1/events?after={first['cursor']}").json()
    assert [item["id"] for item in rest["items"]] == ["1-0", "2-0"]


def test_the_export_has_every_exchange_of_the_filter(client: TestClient, store: Store) -> None:
    fill(store, 1203)
    store.append([Entry("2000-0", feedback("other", domain="chemistry"))], "2000-0")
    answer = client.get("/v1/export?format=jsonl&domain=physics")
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [line["problem_id"] for line in lines] == [f"p{number}" for number in range(1, 1204)]
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    assert client.get("/v1/export?q=nowhere").text == ""


def test_text_is_told_as_it_is_and_never_as_html(client: TestClient, store: Store) -> None:
    text = "<img src=x onerror=alert(1)>\u2028'; DROP TABLE events; --"
    store.append([Entry("1-0", feedback(response=text, raw=text, question=text))], "1-0")
    answer = client.get("/v1/feedback", params={"q": text})
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["items"][0]["raw"] == text


@pytest.mark.parametrize(
    ("url", "status_code", "part"),
    [
        ("/v1/feedback?limit=201", 422, "limit"),
        ("/v1/feedback?limit=0", 422, "limit"),
        ("/v1/feedback?round=-1", 422, "round"),
        ("/v1/feedback?step=99999999999999999999", 422, "step"),
        ("/v1/feedback?before=99999999999999999999", 422, "before"),
        ("/v1/feedback?before=1&after=1", 422, "one way"),
        ("/v1/feedback?change=better", 422, "change"),
        ("/v1/feedback?colour=red", 422, "colour"),
        ("/v1/feedback?verdict=blah", 422, "verdict: expected one of match, unanchored, no_match, no_concept_tag, "),
        ("/v1/export?verdict=matched:force", 422, "got 'matched:force'"),
        ("/v1/feedback?q=" + "a" * 501, 422, "q"),
        ("/v1/feedback/99999999999999999999", 422, "exchange_id"),
        ("/v1/feedback/0", 422, "exchange_id"),
        ("/v1/feedback/7", 404, "there is no exchange 7"),
        ("/v1/events?after=now", 400, "expected a stream id"),
        ("/v1/events?after=" + "9" * 19, 400, "at most"),
        ("/v1/events?limit=1000", 422, "limit"),
        ("/v1/stream?after=x", 400, "expected a stream id"),
        ("/v1/export?format=csv", 422, "format"),
        ("/v1/nothing", 404, "there is nothing at"),
    ],
)
def test_what_cannot_be_answered_says_why(client: TestClient, url: str, status_code: int, part: str) -> None:
    answer = client.get(url)
    assert (answer.status_code, part in answer.json()["error"]["message"]) == (status_code, True)


def test_a_last_event_id_that_is_none_is_refused(client: TestClient) -> None:
    answer = client.get("/v1/stream", headers={"Last-Event-ID": "' OR 1=1"})
    assert answer.status_code == 400


@pytest.mark.parametrize("path", ["/v1/feedback", "/v1/feedback/1", "/v1/events", "/v1/stream", "/v1/export"])
def test_every_route_wants_the_key(store: Store, ingest: Ingest, tmp_path: Path, path: str) -> None:
    app = build_app(config(tmp_path, KEY), store, ingest, EventLog(), threading.Event())
    with TestClient(app, base_url=LOCAL) as client:
        assert client.get(path).status_code == 401
        assert client.get("/livez").status_code == 200
        assert client.get("/v1/events", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200


def test_ready_when_events_come_in_and_the_store_takes_writes(
    client: TestClient, ingest: Ingest, log: EventLog
) -> None:
    assert client.get("/readyz").json()["reason"] == "the event stream was not read yet"
    with in_thread(ingest.run):
        wait_until(lambda: client.get("/readyz").status_code == 200, "readiness")
        log.away = True
        wait_until(lambda: client.get("/readyz").status_code == 503, "the loss of the bus")
        assert "did not answer" in client.get("/readyz").json()["reason"]
        assert client.get("/livez").status_code == 200
        assert client.get("/v1/feedback").status_code == 200


def test_not_ready_while_the_store_takes_no_writes(log: EventLog, clock: StillClock, tmp_path: Path) -> None:
    held = Store(tmp_path / "held", RUN, busy_s=0.05)
    sealed = SealedBatches(tmp_path, RUN)
    ingest = Ingest(log, held, sealed, name="inspector/0", clock=clock, silent_s=30.0, block_s=0.0)
    other = sqlite3.connect(tmp_path / "held", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    stopping = threading.Event()
    app = build_app(config(tmp_path), held, ingest, log, stopping)
    with TestClient(app, base_url=LOCAL) as client, in_thread(ingest.run, stopping):
        wait_until(lambda: "locked" in client.get("/readyz").json().get("reason", ""), "the lock")
        assert client.get("/readyz").status_code == 503
        assert client.get("/v1/feedback").status_code == 200
        assert client.get("/livez").status_code == 200
        other.execute("ROLLBACK")
        wait_until(lambda: client.get("/readyz").status_code == 200, "readiness")
    other.close()
    held.close()


def test_not_ready_while_draining(store: Store, ingest: Ingest, tmp_path: Path) -> None:
    stopping = threading.Event()
    stopping.set()
    with TestClient(build_app(config(tmp_path), store, ingest, EventLog(), stopping), base_url=LOCAL) as client:
        assert client.get("/readyz").json()["reason"] == "draining"


@pytest.mark.parametrize(
    "path", ["/", "/run", "/v1/run", "/v1/feedback", "/v1/stream", "/live", "/v1/export", "/login"]
)
def test_head_of_every_page_and_stream_ends_as_get_begins(client: TestClient, path: str) -> None:
    head = client.head(path, follow_redirects=False)
    assert (head.status_code, head.content) == (303 if path == "/login" else 200, b"")


@pytest.mark.parametrize("path", ["/", "/feedback/1", "/live"])
def test_a_page_opens_whatever_others_added_to_its_address(client: TestClient, store: Store, path: str) -> None:
    fill(store, 1)
    assert client.head(f"{path}?student=a&utm_source=chat&fbclid=%ff").status_code == 200
    assert client.get(f"{path}?step=first&utm_source=chat").status_code == 422
