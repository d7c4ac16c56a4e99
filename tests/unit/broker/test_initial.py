"""Initial scores: kept as a file, taken over by a run that begins alike, refused by one that does not."""

from pathlib import Path

import pytest

from services.broker.recovery import InitialScores
from shared.contracts.jobs import JobKind
from shared.contracts.run import INITIAL_SCORES_FILE, RunState, Split, Status
from shared.errors import ConfigError
from tests.fakes.broker import BrokerBench

OFF = ("feedback.revise_share=0.0",)


def has_scores(state: RunState) -> bool:
    return bool(state.scores)


@pytest.fixture
def measured(run_dir: Path) -> bytes:
    """The file of a run that evaluated itself."""
    bench = BrokerBench(run_dir / "first", OFF)
    path = bench.run_dir / INITIAL_SCORES_FILE
    assert not path.exists()
    bench.run(has_scores)
    return path.read_bytes()


def begun_with(run_dir: Path, file: bytes, *overrides: str) -> BrokerBench:
    (run_dir / "second").mkdir()
    (run_dir / "second" / INITIAL_SCORES_FILE).write_bytes(file)
    return BrokerBench(run_dir / "second", [*OFF, *overrides])


def evaluated(bench: BrokerBench) -> set[str]:
    """Versions that the students were asked to evaluate."""
    return {job.version for student in bench.students.values() for job in student.done if job.kind is JobKind.EVAL}


def test_a_run_that_begins_alike_takes_the_scores_over(run_dir: Path, measured: bytes) -> None:
    bench = begun_with(run_dir, measured, "gate.mode=never")
    initial = InitialScores.model_validate_json(measured).scores
    assert bench.state.status is Status.TRAINING
    assert bench.state.scores == initial
    assert len(bench.events("evaluated")) == len(initial) == 4
    bench.finish()
    assert bench.state.scores[:4] == initial
    assert evaluated(bench) == {"a@v2", "b@v2"}
    assert (bench.run_dir / INITIAL_SCORES_FILE).read_bytes() == measured


def test_the_scores_are_taken_over_once(run_dir: Path, measured: bytes) -> None:
    bench = begun_with(run_dir, measured)
    bench.start()
    bench.start()
    assert len(bench.state.scores) == 4
    bench.finish()
    assert len(bench.state.scores) == 8


def test_a_run_that_has_begun_keeps_to_its_own(run_dir: Path, measured: bytes) -> None:
    bench = BrokerBench(run_dir / "second", OFF)
    assert bench.state.evals
    (run_dir / "second" / INITIAL_SCORES_FILE).write_bytes(measured)
    bench.start()
    assert bench.state.scores == []
    assert bench.state.evals


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("evaluation.temperature=0.5", "evaluation.temperature: 0.6 there, 0.5 here"),
        ("run.seed=3", "seed: 0 there, 3 here"),
        ("students.b.dtype=float32", "students.b.dtype: 'bfloat16' there, 'float32' here"),
    ],
)
def test_other_settings_are_refused(run_dir: Path, measured: bytes, override: str, said: str) -> None:
    with pytest.raises(ConfigError, match="which began differently") as refused:
        begun_with(run_dir, measured, override)
    assert said in str(refused.value)


@pytest.mark.parametrize("part", ["problems", "models", "evaluated"])
def test_other_problems_or_models_are_refused(run_dir: Path, measured: bytes, part: str) -> None:
    kept = InitialScores.model_validate_json(measured)
    other = {"problems": "0" * 64, "models": {"a": "0" * 64, "b": None}, "evaluated": {Split.TEST: "0" * 64}}[part]
    basis = kept.basis.model_copy(update={part: other})
    with pytest.raises(ConfigError, match=rf"{part}.*: '0000"):
        begun_with(run_dir, kept.model_copy(update={"basis": basis}).model_dump_json().encode())


def test_a_file_that_cannot_be_read_is_named(run_dir: Path) -> None:
    with pytest.raises(ConfigError, match=INITIAL_SCORES_FILE):
        begun_with(run_dir, b"{}")


def test_scores_of_other_rules_are_measured_again(run_dir: Path, measured: bytes) -> None:
    kept = InitialScores.model_validate_json(measured)
    older = kept.model_copy(update={"basis": kept.basis.model_copy(update={"rules": kept.basis.rules - 1})})
    bench = begun_with(run_dir, older.model_dump_json().encode())
    assert bench.state.scores == [] and bench.state.evals
    bench.finish()
    (found,) = run_dir.rglob(f"second/{INITIAL_SCORES_FILE}")
    assert InitialScores.model_validate_json(found.read_bytes()).basis == kept.basis
