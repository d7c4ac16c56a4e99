"""The trace of an exchange: given where the trainer wrote one, and refused with the reason where not."""

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from services.inspector.records import Entry
from services.inspector.sealed import SealedBatches
from services.inspector.store import Store
from shared.contracts.traces import Alternative, RolloutTrace, StepTrace, TokenTrace
from tests.unit.inspector.told import RUN, feedback, ready, seal


def token(text: str) -> TokenTrace:
    top = (Alternative(text=text, probability=0.9), Alternative(text="<b>", probability=0.1))
    return TokenTrace(
        text=text,
        divergence=0.3,
        weight=1.0,
        student_logprob=-0.1,
        teacher_logprob=-2.0,
        student_top=top,
        teacher_top=top,
    )


def write_trace(run_dir: Path, sample: int = 0, **changes: object) -> Path:
    rollout = RolloutTrace(problem_id="p1", sample=sample, all_tokens=9, tokens=(token("The"), token(" force")))
    fields = {
        "run": RUN,
        "student": "a",
        "step": 1,
        "version": "a@v0",
        "batch_sha256": "0" * 64,
        "share": 0.02,
        "rollouts": (rollout,),
    }
    path = run_dir / "traces" / "a" / "s00001.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(StepTrace.model_validate(fields | changes).model_dump_json())
    return path


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
