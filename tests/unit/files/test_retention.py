"""Which versions stay, and what is left of one that goes."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.broker.machine import machine
from services.broker.metrics import PRUNING_FAILURES
from services.broker.upkeep import VersionRetention
from shared.config.machine import RetentionSection
from shared.contracts.run import PhaseState, Revision, Score, Split
from shared.errors import StorageError
from shared.files.retention import needed_steps, prune_versions, retained, versions_on_disk
from shared.results.figures import best_validated
from tests.fakes.world import small_plan


@pytest.mark.parametrize(
    ("keep_last", "keep_every", "needed", "stay"),
    [
        (0, 0, [], {1, 2, 3, 4, 5, 6}),
        (2, 0, [], {5, 6}),
        (2, 3, [], {3, 5, 6}),
        (1, 0, [2, 9], {2, 6}),
        (99, 0, [], {1, 2, 3, 4, 5, 6}),
    ],
)
def test_the_newest_the_milestones_and_the_needed_stay(
    keep_last: int, keep_every: int, needed: list[int], stay: set[int]
) -> None:
    assert retained(range(1, 7), keep_last=keep_last, keep_every=keep_every, needed=needed) == stay


@given(st.sets(st.integers(1, 50)), st.integers(0, 9), st.integers(0, 9), st.sets(st.integers(1, 50)))
def test_what_is_needed_always_stays(steps: set[int], keep_last: int, keep_every: int, needed: set[int]) -> None:
    stay = retained(sorted(steps), keep_last=keep_last, keep_every=keep_every, needed=needed)
    assert needed & steps <= stay <= steps


def score(version: str, split: Split, *right: int) -> Score:
    correct = {f"domain{i}": [count] for i, count in enumerate(right)}
    return Score(
        student="a", version=version, split=split, round=1, samples=4, correct=correct, answers={}, majority={}
    )


def test_the_best_version_is_that_of_the_best_mean_validation_score() -> None:
    state = machine.new_run(small_plan(), incarnation=1, at=0.0)
    assert best_validated(state.scores, "a") is None
    state.scores = [
        score("a@v0", Split.VALIDATION, 1, 4),
        score("a@v2", Split.VALIDATION, 3, 3),
        score("a@v4", Split.VALIDATION, 4, 1),
        score("a@v6", Split.TEST, 4, 4),
    ]
    state.version = {"a": "a@v6", "b": "b@v0"}
    assert best_validated(state.scores, "a") == state.scores[1]
    assert needed_steps(state, "a") == {2: "best validation score", 6: "live"}


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    for step in range(1, 7):
        directory = tmp_path / f"weights/a/v{step:06d}"
        directory.mkdir(parents=True)
        (directory / "manifest.json").write_text("{}")
        (directory / "adapter_model.safetensors").write_bytes(b"12345678")
    (tmp_path / "weights/a/v000006.tmp").mkdir()
    return tmp_path


def test_a_pruned_version_keeps_its_manifest_and_is_not_pruned_again(run_dir: Path) -> None:
    state = machine.new_run(small_plan(), incarnation=1, at=0.0)
    state.version["a"] = "a@v3"
    would = prune_versions(run_dir, state, "a", keep_last=2, keep_every=0, dry_run=True)
    assert would == {1: 8, 2: 8, 4: 8}
    assert sorted(versions_on_disk(run_dir, "a")) == [1, 2, 3, 4, 5, 6]
    assert prune_versions(run_dir, state, "a", keep_last=2, keep_every=0) == would
    assert sorted(versions_on_disk(run_dir, "a")) == [3, 5, 6]
    assert sorted(path.name for path in (run_dir / "weights/a/v000004").iterdir()) == ["manifest.json", "pruned"]
    assert prune_versions(run_dir, state, "a", keep_last=2, keep_every=0) == {}


def test_the_broker_prunes_only_where_the_settings_say_so(run_dir: Path) -> None:
    state = machine.new_run(small_plan(), incarnation=1, at=0.0)
    VersionRetention(RetentionSection(), run_dir, ("a", "b")).sweep(state)
    assert len(versions_on_disk(run_dir, "a")) == 6
    VersionRetention(RetentionSection(keep_last=2, keep_every=4), run_dir, ("a", "b")).sweep(state)
    assert sorted(versions_on_disk(run_dir, "a")) == [4, 5, 6]


def test_a_version_that_is_still_revised_with_stays() -> None:
    state = machine.new_run(small_plan(), incarnation=1, at=0.0)
    state.version = {"a": "a@v6", "b": "b@v0"}
    state.phases = [
        PhaseState(
            student="a",
            tutors={"b": "b@v0"},
            first_step=5,
            steps=2,
            open_revisions=[Revision(job_id="j", tutor="b", step=4, problem_id="p", version="a@v4")],
        )
    ]
    assert needed_steps(state, "a") == {4: "revising", 6: "live"}
    assert needed_steps(state, "b") == {0: "live"}


def test_what_a_crash_left_half_deleted_is_finished(run_dir: Path) -> None:
    state = machine.new_run(small_plan(), incarnation=1, at=0.0)
    state.version["a"] = "a@v6"
    (run_dir / "weights/a/v000002/pruned").touch()
    assert prune_versions(run_dir, state, "a", keep_last=4, keep_every=0) == {1: 8, 2: 8}
    assert not (run_dir / "weights/a/v000002/adapter_model.safetensors").exists()


def test_a_disk_that_refuses_does_not_end_the_broker(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = machine.new_run(small_plan(), incarnation=1, at=0.0)
    retention = VersionRetention(RetentionSection(keep_last=2), run_dir, ("a", "b"))
    before = PRUNING_FAILURES._value.get()
    with monkeypatch.context() as full:
        full.setattr("shared.files.retention.atomic_write", full_disk)
        retention.sweep(state)
    assert PRUNING_FAILURES._value.get() == before + 1
    assert len(versions_on_disk(run_dir, "a")) == 6
    retention.sweep(state)
    assert sorted(versions_on_disk(run_dir, "a")) == [5, 6]


def full_disk(path: Path, data: bytes) -> None:
    raise StorageError(f"no space left to write {len(data)} bytes to {path}")


def test_one_version_is_too_few_to_keep() -> None:
    with pytest.raises(ValueError, match=r"expected 0 \(all\) or at least 2"):
        RetentionSection(keep_last=1)
