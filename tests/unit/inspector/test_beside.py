"""Another run's scores beside this one's: only those of a run in the same directory, never through a link."""

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from services.inspector.beside import OtherRuns
from shared.contracts.run import AnswerCounts, RunState, Score, Split, Status
from shared.errors import NotFoundError, StorageError


def write_state(folder: Path, right: int = 1) -> None:
    score = Score(
        student="a",
        version="a@v8",
        split=Split.TEST,
        round=3,
        samples=2,
        correct={"physics": [right, 2]},
        answers={"physics": AnswerCounts()},
        majority={"physics": 0.1},
    )
    names = {"a": "a@v8", "b": "b@v0"}
    state = RunState(
        run=folder.name,
        incarnation=1,
        revision=1,
        status=Status.DONE,
        round=2,
        version=names,
        steps={"a": 8, "b": 0},
        served=names,
        scores=[score],
        status_since=0.0,
        at=0.0,
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "state.json").write_text(state.model_dump_json())


def test_the_scores_of_a_run_beside_it(tmp_path: Path) -> None:
    write_state(tmp_path / "mine")
    write_state(tmp_path / "other", right=0)
    (tmp_path / "no-run").mkdir()
    others = OtherRuns(tmp_path / "mine")
    assert others.names() == ["other"]
    [point] = others.scores("other")
    assert (point.student, point.split, point.score) == ("a", "test", 0.5)
    assert point.interval is not None
    assert point.interval[0] <= 0.5 <= point.interval[1]


@pytest.mark.parametrize("name", ["mine", "nowhere", "..", "../secret", "linked", "", "/etc"])
def test_what_is_no_run_beside_it_is_not_read(tmp_path: Path, name: str) -> None:
    write_state(tmp_path / "runs" / "mine")
    write_state(tmp_path / "secret")
    (tmp_path / "runs" / "linked").symlink_to(tmp_path / "secret")
    with pytest.raises(NotFoundError, match="there is no run"):
        OtherRuns(tmp_path / "runs" / "mine").scores(name)


def test_a_state_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    write_state(tmp_path / "other")
    (tmp_path / "other" / "state.json").write_text("{}")
    with pytest.raises(StorageError, match="cannot be read"):
        OtherRuns(tmp_path / "mine").scores("other")


def test_the_page_shows_both(client: TestClient, tmp_path: Path) -> None:
    write_state(tmp_path.parent / "beside")
    assert client.get("/v1/run?beside=beside").json()["beside_scores"][0]["score"] == 0.75
    assert "beside" in client.get("/run?beside=beside").text
    assert client.get("/run?beside=").status_code == 200
    assert "there is no run" in client.get("/v1/run?beside=nowhere").json()["problem"]
