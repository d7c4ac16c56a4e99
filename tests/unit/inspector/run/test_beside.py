"""Another run beside this one: only one of the same directory, read only and never through a link."""

import html
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from services.inspector.config import STORE
from services.inspector.run.beside import OtherRuns
from services.inspector.store.records import Entry
from services.inspector.store.store import Store
from shared.config.loading import load_settings, to_toml
from shared.contracts.events import Event, StepApplied
from shared.contracts.run import AnswerCounts, RunState, Score, Split, Status
from shared.errors import NotFoundError, StorageError
from shared.results.comparison import COMPARISON_FILE
from tests.fakes.figures import step_metrics
from tests.unit.inspector.told import feedback
from tests.unit.opcod.report.test_comparison import compared


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
    results, problem = others.results("other")
    assert (results.status, results.versions) == ("DONE", {"a": "a@v8", "b": "b@v0"})
    assert problem is not None and "its steps and verdicts cannot be read (its inspector kept no" in problem
    [point] = results.scores
    assert (point.student, point.split, point.score) == ("a", "test", 0.5)
    assert point.interval is not None
    assert point.interval[0] <= 0.5 <= point.interval[1]


def write_log(folder: Path, *events: Event) -> Path:
    store = Store(folder / STORE, folder.name)
    store.append([Entry(f"{number}-0", event) for number, event in enumerate(events, start=1)], f"{len(events)}-0")
    store.close()
    return folder / STORE


def step(number: int, at: float, round_: int = 1) -> StepApplied:
    names = {"student": "a", "round": round_, "step": number, "version": f"a@v{number}"}
    return StepApplied.model_validate({"at": at, "source": "broker/0", "metrics": step_metrics(), **names})


def test_steps_and_verdicts_come_from_its_log_which_stays_as_it_is(tmp_path: Path) -> None:
    write_state(tmp_path / "other")
    path = write_log(tmp_path / "other", step(1, 10.0), feedback(), step(2, 14.5), step(3, 99.0, round_=2))
    before = path.read_bytes()
    results, problem = OtherRuns(tmp_path / "mine").results("other")
    assert problem is None
    assert [(one.step, one.wall_s) for one in results.steps] == [(1, None), (2, 4.5), (3, None)]
    assert [(row.student, row.verdict, row.count) for row in results.verdicts] == [("a", "match", 1)]
    assert path.read_bytes() == before


def test_a_log_that_is_being_written_is_read_beside_its_writer(tmp_path: Path) -> None:
    write_state(tmp_path / "other")
    store = Store(tmp_path / "other" / STORE, "other")
    store.append([Entry("1-0", step(1, 10.0))], "1-0")
    results, problem = OtherRuns(tmp_path / "mine").results("other")
    assert (len(results.steps), problem) == (1, None)
    store.append([Entry("2-0", step(2, 11.0))], "2-0")
    assert len(OtherRuns(tmp_path / "mine").results("other")[0].steps) == 2
    store.close()


@pytest.mark.parametrize("damage", ["linked", "folder linked", "no database", "other events"])
def test_a_log_that_cannot_be_read_leaves_the_state(damage: str, tmp_path: Path) -> None:
    write_state(tmp_path / "runs" / "other")
    path = write_log(tmp_path / "runs" / "other", step(1, 10.0))
    match damage:
        case "linked":
            path.rename(tmp_path / "elsewhere")
            path.symlink_to(tmp_path / "elsewhere")
        case "folder linked":
            path.parent.rename(tmp_path / "elsewhere")
            path.parent.symlink_to(tmp_path / "elsewhere")
        case "no database":
            path.write_bytes(b"nothing of the kind" * 100)
        case "other events":
            with closing(sqlite3.connect(path)) as connection:
                connection.execute("UPDATE events SET body = '{}'")
                connection.commit()
    results, problem = OtherRuns(tmp_path / "runs" / "mine").results("other")
    assert (len(results.scores), results.steps) == (1, ())
    assert problem is not None and problem.startswith("other: its steps and verdicts cannot be read")


@pytest.mark.parametrize("name", ["mine", "nowhere", "..", "../secret", "linked", "", "/etc"])
def test_what_is_no_run_beside_it_is_not_read(tmp_path: Path, name: str) -> None:
    write_state(tmp_path / "runs" / "mine")
    write_state(tmp_path / "secret")
    (tmp_path / "runs" / "linked").symlink_to(tmp_path / "secret")
    with pytest.raises(NotFoundError, match="there is no run"):
        OtherRuns(tmp_path / "runs" / "mine").results(name)


def test_a_state_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    write_state(tmp_path / "other")
    (tmp_path / "other" / "state.json").write_text("{}")
    with pytest.raises(StorageError, match="cannot be read"):
        OtherRuns(tmp_path / "mine").results("other")


def test_the_page_shows_both(client: TestClient, tmp_path: Path) -> None:
    write_state(tmp_path.parent / "beside")
    assert client.get("/v1/run?beside=beside").json()["beside"]["scores"][0]["score"] == 0.75
    assert "beside" in client.get("/run?beside=beside").text
    assert client.get("/run?beside=").status_code == 200
    assert "there is no run" in client.get("/v1/run?beside=nowhere").json()["problem"]


def write_settings(folder: Path, *overrides: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    settings = load_settings(preset="smoke", overrides=list(overrides), environ={})
    (folder / "config.toml").write_text(to_toml(settings))


def test_every_run_of_the_directory_in_a_line(tmp_path: Path) -> None:
    write_state(tmp_path / "mine")
    write_settings(tmp_path / "mine", "run.method=grpo", "gate.mode=never", "run.rounds=3", "run.seed=7")
    write_state(tmp_path / "other")
    (tmp_path / "other" / "state.json").write_text("{}")
    (tmp_path / "no-run").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "mine")
    mine, other = OtherRuns(tmp_path / "mine").outlines()
    assert (mine.run, mine.status, mine.method, mine.seed, mine.round, mine.rounds) == ("mine", "DONE", "grpo", 7, 2, 3)
    assert (mine.problem, mine.tests) == (None, ())
    assert (other.run, other.status, other.method) == ("other", None, None)
    assert other.problem is not None and "cannot be read" in other.problem


def test_a_comparison_is_read_where_it_lies_and_nowhere_else(tmp_path: Path) -> None:
    write_state(tmp_path / "runs" / "mine")
    made = compared({"opcod": [(0.5, 0.75)], "grpo": [(0.25, 0.75)]}, seeds=1)
    for folder in (tmp_path / "runs" / "x", tmp_path / "elsewhere", tmp_path / "runs" / "broken"):
        folder.mkdir()
        (folder / COMPARISON_FILE).write_text(made.model_dump_json() if folder.name != "broken" else "{")
    (tmp_path / "runs" / "linked").symlink_to(tmp_path / "elsewhere")
    others = OtherRuns(tmp_path / "runs" / "mine")
    assert others.comparisons() == ["broken", "x"]
    assert others.comparison("x") == made
    with pytest.raises(StorageError, match="cannot be read"):
        others.comparison("broken")
    for name in ("linked", "mine", "../elsewhere", "", "/etc"):
        with pytest.raises(NotFoundError, match="there is no comparison"):
            others.comparison(name)


def test_the_runs_page_and_its_json(client: TestClient, tmp_path: Path) -> None:
    for name in (tmp_path.name, "beside-it"):
        write_state(tmp_path.parent / name)
    body = client.get(f"/v1/runs?run=beside-it&run={tmp_path.name}&run=beside-it&run=nowhere").json()
    assert [run["run"] for run in body["chosen"]] == ["beside-it", "r1"]
    assert body["chosen"][0]["scores"][0]["interval"] is None
    assert "there is no run 'nowhere'" in body["problem"]
    assert body["own"] == tmp_path.name
    assert "beside-it" in client.get("/runs").text
    assert client.get("/runs?" + "&".join(["run=x"] * 13)).status_code == 422
    assert client.get("/comparison?name=nowhere").status_code == 404


def test_a_comparison_of_many_runs_leads_to_charts_that_can_be_shown(client: TestClient, tmp_path: Path) -> None:
    """By seed, each run once: twenty-four in one chart would be refused."""
    rows = [(0.5, 0.75)] * 8
    made = compared({"opcod": rows, "sdpo": rows, "never": rows}, seeds=8)
    (tmp_path.parent / "many").mkdir()
    (tmp_path.parent / "many" / COMPARISON_FILE).write_text(made.model_dump_json())
    page = client.get("/comparison?name=many").text
    links = re.findall(r'href="(/runs\?[^"]+)"', page)
    assert len(links) == 8
    assert html.unescape(links[3]) == "/runs?run=x-opcod-s3&run=x-sdpo-s3&"
    assert {client.get(html.unescape(link)).status_code for link in links} == {200}
