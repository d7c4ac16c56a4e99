"""Rows for others' training hold what a run kept, whole or said to be cut, and nothing that a person excluded."""

import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi.testclient import TestClient
from pyarrow import parquet

from services.inspector.http import export
from services.inspector.http.api import inspector_routes
from services.inspector.http.stream import Viewers
from services.inspector.http.views import Critique, PreferencePair
from services.inspector.store.records import Entry
from services.inspector.store.sealed import SealedBatches
from services.inspector.store.store import Store
from services.inspector.store.traces import Traces
from shared.contracts.batches import BatchGroup, BatchManifest
from shared.contracts.events import SHOWN_CHARS, Event
from shared.errors import StorageError
from shared.http.app import create_app
from shared.http.client import client as client_of
from tests.fakes.access import PLENTY
from tests.fakes.listening import listening
from tests.fakes.waiting import WAIT_S
from tests.unit.inspector.told import RUN, feedback, revised, seal


def rows(client: TestClient, query: str) -> list[dict[str, Any]]:
    answer = client.get(f"/v1/export?{query}")
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.content.splitlines()]


def put(store: Store, *events: Event) -> None:
    store.append([Entry(f"{number}-0", event) for number, event in enumerate(events, start=1)], "9-0")


def alter(groups: Path) -> None:
    groups.write_bytes(groups.read_bytes().replace(b"5 N", b"6 N"))


def test_a_critique_is_answer_feedback_and_answer_after_it(client: TestClient, store: Store) -> None:
    put(store, feedback("p1"), feedback("p2"), revised("p1"))
    [found] = rows(client, "rows=critiques")
    assert found == {
        "run": "r1",
        "round": 1,
        "step": 1,
        "student": "a",
        "tutor": "b",
        "tutor_version": "b@v0",
        "version": "a@v0",
        "domain": "physics",
        "problem_id": "p1",
        "sample": 0,
        "problem": "What force moves 2 kg at 3 m/s2?",
        "answer": "The force is 5 N.",
        "correct": False,
        "word": "force",
        "feedback": "Multiply, do not add.",
        "revised": "The force is 6 N.",
        "revised_correct": True,
        "change": "fixed",
        "cut": False,
    }


def test_an_answer_after_no_feedback_is_no_critique(client: TestClient, store: Store) -> None:
    put(store, feedback("p1", verdict="no_match", delivered=None), revised("p1"))
    assert rows(client, "rows=critiques") == []


def test_a_filter_and_a_cut_hold_for_critiques(client: TestClient, store: Store) -> None:
    long = revised("p2").model_copy(update={"text": "x" * SHOWN_CHARS})
    put(store, feedback("p1"), feedback("p2"), feedback("p3", cut=True), revised("p1"), long, revised("p3"))
    told = {row["problem_id"]: row["cut"] for row in rows(client, "rows=critiques")}
    assert told == {"p1": False, "p2": True, "p3": True}
    assert [row["problem_id"] for row in rows(client, "rows=critiques&problem_id=p2")] == ["p2"]


def test_excluded_feedback_is_in_no_critique(client: TestClient, store: Store) -> None:
    put(store, feedback("p1", delivered=None), revised("p1"))
    assert rows(client, "rows=exchanges") and rows(client, "rows=critiques") == []


def test_each_wrong_rollout_stands_beside_a_right_one(client: TestClient, tmp_path: Path) -> None:
    seal(tmp_path, wrong=("5 N", "7 N", "5 N", "9 N"))
    found = rows(client, "rows=preferences")
    pairs = [(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in found]
    assert pairs == [("whole response", "5 N"), ("alone", "7 N"), ("whole response", "9 N")]
    assert [(row["chosen_sample"], row["rejected_sample"]) for row in found] == [(0, 2), (1, 3), (0, 5)]
    assert found[0]["prompt"] == [{"role": "user", "content": "whole question"}]
    assert {turn["role"] for row in found for turn in (*row["chosen"], *row["rejected"])} == {"assistant"}
    assert (found[0]["version"], found[0]["rejected_finish_reason"]) == ("a@v0", "stop")


def test_a_problem_that_is_all_right_makes_no_pair(client: TestClient, tmp_path: Path) -> None:
    seal(tmp_path)
    assert rows(client, "rows=preferences") == []


def test_pairs_are_filtered_by_what_rollouts_have(client: TestClient, tmp_path: Path) -> None:
    for step in (1, 2):
        seal(tmp_path, step=step, wrong=("5 N",))
    assert [row["step"] for row in rows(client, "rows=preferences")] == [1, 2]
    assert [row["step"] for row in rows(client, "rows=preferences&step=2&student=a&problem_id=p1")] == [2]
    refused = client.get("/v1/export?rows=preferences&verdict=match")
    assert refused.status_code == 400
    assert "verdict: preference pairs are of rollouts" in refused.json()["error"]["message"]


@pytest.mark.parametrize(("kind", "contract"), [("critiques", Critique), ("preferences", PreferencePair)])
def test_parquet_has_the_same_rows_and_columns_of_its_own(
    client: TestClient,
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    contract: type[Critique],
) -> None:
    monkeypatch.setattr(export, "PAGE", 2)
    put(store, *(feedback(f"p{n}") for n in range(3)), *(revised(f"p{n}") for n in range(3)))
    seal(tmp_path, wrong=("5 N", "7 N", "9 N"))
    answer = client.get(f"/v1/export?rows={kind}&format=parquet")
    table = parquet.read_table(io.BytesIO(answer.content))
    assert table.column_names == list(contract.model_fields)
    assert table.to_pylist() == rows(client, f"rows={kind}")
    assert table.num_rows == 3
    assert f'filename="{kind}.parquet"' in answer.headers["content-disposition"]


def test_a_batch_that_was_changed_is_given_to_nobody(tmp_path: Path) -> None:
    groups = seal(tmp_path, wrong=("5 N",)) / "groups.jsonl"
    alter(groups)
    with pytest.raises(StorageError, match="expected sha256"):
        list(SealedBatches(tmp_path, RUN).groups())


@pytest.mark.parametrize("format_", ["jsonl", "parquet"])
def test_an_export_with_a_damaged_batch_is_refused_before_it_begins(
    client: TestClient, tmp_path: Path, format_: str
) -> None:
    for step in (1, 2):
        batch = seal(tmp_path, step=step, wrong=("5 N",))
    assert client.get(f"/v1/export?rows=preferences&format={format_}").status_code == 200
    alter(batch / "groups.jsonl")
    refused = client.get(f"/v1/export?rows=preferences&format={format_}")
    assert refused.status_code == 500
    assert "s00002/groups.jsonl: expected sha256" in refused.json()["error"]["message"]


@pytest.mark.parametrize("format_", ["jsonl", "parquet"])
def test_an_export_whose_batch_is_damaged_meanwhile_does_not_look_whole(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format_: str
) -> None:
    monkeypatch.setattr(export, "PAGE", 1)
    batches = [seal(tmp_path, step=step, wrong=("5 N",)) for step in (1, 2)]

    class DamagedMeanwhile(SealedBatches):
        def groups(self) -> Iterator[tuple[BatchManifest, BatchGroup]]:
            found = super().groups()
            alter(batches[-1] / "groups.jsonl")
            return found

    app = create_app("inspector", ready=lambda: None, keys=None, limits=PLENTY)
    sealed, traces = DamagedMeanwhile(tmp_path, RUN), Traces(tmp_path, RUN)
    app.include_router(inspector_routes(store, sealed, traces, stopping=threading.Event(), viewers=Viewers(1)))
    with listening(app) as url, client_of(WAIT_S) as asked:
        query = f"rows=preferences&format={format_}"
        with asked.stream("GET", f"{url}/v1/export?{query}") as answer:
            assert answer.status_code == 200
            with pytest.raises(httpx2.RemoteProtocolError):
                answer.read()
