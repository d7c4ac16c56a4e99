"""The trace of an exchange: given where the trainer wrote one, and refused with the reason where not."""

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from services.inspector.store.records import Entry
from services.inspector.store.sealed import SealedBatches
from services.inspector.store.store import Store
from tests.fakes.traces import write_trace
from tests.unit.inspector.told import RUN, feedback, ready, seal


@pytest.fixture
def exchange(store: Store) -> str:
    store.append([Entry("1-0", feedback())], "1-0")
    return "/v1/feedback/1/trace"


def test_the_trace_of_an_exchange(client: TestClient, exchange: str, tmp_path: Path) -> None:
    write_trace(tmp_path)
    body = client.get(exchange).json()
    assert [each["text"] for each in body["tokens"]] == ["The", " force"]
    assert (body["version"], body["all_tokens"]) == ("a@v0", 9)
    assert body["tokens"][0]["teacher_top"][1] == {"text": "<b>", "probability": 0.1}


def test_where_there_is_none_its_reason_is(client: TestClient, exchange: str, store: Store, tmp_path: Path) -> None:
    def reason() -> str:
        answer = client.get(exchange)
        assert answer.status_code == 404
        return str(answer.json()["error"]["message"])

    assert "not trained yet" in reason()
    seal(tmp_path)
    store.append([Entry("2-0", ready(), SealedBatches(tmp_path, RUN).exchanges(ready()))], "2-0")
    assert "opcod replay r1 --student a --set loss.trace_share=1" in reason()
    write_trace(tmp_path, sample=5)
    assert "not among the 1 traced ones of its step: loss.trace_share was 0.02" in reason()
    assert client.get("/v1/feedback/77/trace").status_code == 404


def test_a_file_that_is_another_or_a_link_is_not_shown(client: TestClient, exchange: str, tmp_path: Path) -> None:
    path = write_trace(tmp_path, run="other")
    assert client.get(exchange).status_code == 500
    path.write_text("{")
    assert client.get(exchange).status_code == 500
    write_trace(tmp_path).rename(tmp_path / "elsewhere.json")
    path.symlink_to(tmp_path / "elsewhere.json")
    answer = client.get(exchange)
    assert answer.status_code == 500
    assert "symbolic link" in answer.json()["error"]["message"]
