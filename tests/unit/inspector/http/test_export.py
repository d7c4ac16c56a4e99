"""Exports hold what the filter wants, whole, in a form that other tools load."""

import io
import json
import sys

import pytest
from fastapi.testclient import TestClient
from pyarrow import parquet

from services.inspector.http import export
from services.inspector.http.views import ExchangeView
from services.inspector.store.filters import ExchangeFilter
from services.inspector.store.records import Entry
from services.inspector.store.store import Store
from shared.contracts.events import Event
from tests.unit.inspector.told import acted, feedback, revised

NASTY = "Ω \u2028 \"quoted\"\n<script>alert(1)</script> \x00 = cmd|' /C calc'!A0"


def fill(store: Store) -> None:
    events: list[Event] = [
        feedback("p1", response=NASTY, removed=("boxed letter",)),
        feedback("p2", verdict="no_match", delivered=None),
        feedback("p3", student="b", tutor="a", raw=None, delivered=None, verdict="fb_none"),
        revised("p1"),
        acted(1, "flag"),
    ]
    store.append([Entry(f"{number}-0", event) for number, event in enumerate(events, start=1)], "9-0")


def exported(client: TestClient, query: str = "") -> bytes:
    answer = client.get(f"/v1/export?{query}")
    assert answer.status_code == 200, answer.text
    return answer.content


@pytest.mark.parametrize("query", ["", "student=a", "verdict=no_match", "student=nobody"])
def test_parquet_holds_what_json_lines_hold(client: TestClient, store: Store, query: str) -> None:
    fill(store)
    lines = [json.loads(line) for line in exported(client, query).splitlines()]
    table = parquet.read_table(io.BytesIO(exported(client, f"{query}&format=parquet")))
    assert table.to_pylist() == lines
    assert len(lines) == {"": 3, "student=a": 2, "verdict=no_match": 1, "student=nobody": 0}[query]


def test_columns_and_types_are_the_same_whatever_is_in_them(client: TestClient, store: Store) -> None:
    empty = parquet.read_schema(io.BytesIO(exported(client, "format=parquet")))
    fill(store)
    full = parquet.read_schema(io.BytesIO(exported(client, "format=parquet")))
    assert empty == full
    assert full.names == list(ExchangeView.model_fields)
    assert str(full.field("revision").type) == "struct<before: bool, after: bool, change: string, text: string>"


def test_many_pages_are_one_file(client: TestClient, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "PAGE", 2)
    store.append([Entry(f"{number}-0", feedback(f"p{number}")) for number in range(1, 6)], "5-0")
    file = parquet.ParquetFile(io.BytesIO(exported(client, "format=parquet")))
    assert (file.num_row_groups, file.metadata.num_rows) == (3, 5)


@pytest.mark.parametrize("kept", [1, 2, 7])
def test_a_search_is_exported_whole_and_never_over_many_more_ids_than_it_finds(
    store: Store, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    monkeypatch.setattr(export, "PAGE", 2)
    spans: list[int] = []
    between = store.exchanges_between

    def noted(wanted: ExchangeFilter, *, after: int, upto: int, limit: int) -> list[ExchangeView]:
        spans.append(upto - after)
        return between(wanted, after=after, upto=upto, limit=limit)

    monkeypatch.setattr(store, "exchanges_between", noted)
    told = [feedback(f"p{n}", response="straw" if n % kept == 0 else "hay") for n in range(24)]
    store.append([Entry(f"{n + 1}-0", event) for n, event in enumerate(told)], "24-0")
    found = [row.problem_id for page in export.exchange_pages(store, ExchangeFilter(q="straw")) for row in page]
    assert found == [f"p{n}" for n in range(0, 24, kept)]
    assert max(spans) <= 4 * kept


def test_without_pyarrow_it_says_what_brings_it(
    client: TestClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    answer = client.get("/v1/export?format=parquet")
    assert answer.status_code == 400
    assert ".[export]" in answer.json()["error"]["message"]
    assert len(exported(client).splitlines()) == 3


def test_what_is_served_does_not_load_pyarrow_unless_it_is_asked_for() -> None:
    import subprocess

    code = "import services.inspector.app, sys; sys.exit('pyarrow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
