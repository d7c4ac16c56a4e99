"""A run in parallel with full weights on engines that hold one version at a time: two replicas of each student keep one
each, one alone does the work of both, and the batches are the same."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from shared.contracts.run import RunState, Status
from tests.fakes.replicated import ReplicatedRun

ROUNDS, STEPS = 2, 3
LENGTH = (f"run.rounds={ROUNDS}", f"run.steps_per_round={STEPS}", "problems.per_step=4")
STUDENTS = ("a", "b")
AGAIN = 5
"""Exchanges that a busy machine may add, of which one who does the work of both makes twice as many as there are."""

pytestmark = pytest.mark.timeout(280)


@contextmanager
def running(run_dir: Path, replicas: Sequence[str], *overrides: str, **times: float) -> Iterator[ReplicatedRun]:
    run_dir.mkdir(exist_ok=True)
    run = ReplicatedRun(run_dir, replicas, *LENGTH, *overrides, **times)
    try:
        yield run
    finally:
        run.close()


def batches(run_dir: Path) -> dict[str, str]:
    """sha256 of what was sealed for each step."""
    files = sorted((run_dir / "batches").rglob("*"))
    return {
        str(path.relative_to(run_dir)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.is_file()
    }


def assert_done(run: ReplicatedRun, state: RunState) -> None:
    assert state.status is Status.DONE and state.steps == dict.fromkeys(STUDENTS, ROUNDS * STEPS)
    for student in STUDENTS:
        trainer = run.bench.trainers[student]
        assert trainer.applied == list(range(1, ROUNDS * STEPS + 1))
    assert run.bench.workers.dead_letters() == []


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], dict[str, int]]:
    """Of a run in which every student has one replica: what was sealed, and how often each exchanged weights."""
    run_dir = tmp_path_factory.mktemp("alone")
    with running(run_dir, ["0"]) as run:
        assert_done(run, run.finish())
        return batches(run_dir), {student: len(run.replicas[student, "0"].engine.exchanges) for student in STUDENTS}


def test_each_of_two_replicas_exchanges_weights_as_often_as_its_versions_need(
    tmp_path: Path, alone: tuple[dict[str, str], dict[str, int]]
) -> None:
    sealed, exchanges_alone = alone
    with running(tmp_path, ["0", "1"], "feedback.revise_share=0") as run:
        assert_done(run, run.finish())
        engines = {key: replica.engine for key, replica in run.replicas.items()}
    for student in STUDENTS:
        live, tutor = engines[student, "0"], engines[student, "1"]
        versions = [f"{student}@v{step}" for step in range(ROUNDS * STEPS + 1)]
        # Once each, and twice where a thread that was held up had looked at the duties of a moment before.
        assert set(live.exchanges) == set(versions) and len(live.exchanges) <= len(versions) + AGAIN
        # Those that tutor, and the last ones where its tutee is done before it is.
        assert set(versions[:-1:STEPS]) <= set(tutor.exchanges) and len(tutor.exchanges) <= len(versions)
        assert exchanges_alone[student] > len(versions) + AGAIN
        assert min(live.answered, tutor.answered) > ROUNDS * STEPS
    assert batches(tmp_path) == sealed


@pytest.mark.parametrize("killed", ["0", "1"], ids=["live", "tutor"])
def test_with_one_of_two_killed_the_run_ends_with_the_same_batches(
    tmp_path: Path, alone: tuple[dict[str, str], dict[str, int]], killed: str
) -> None:
    with running(tmp_path, ["0", "1"], lease_s=2.0, beat_ttl_s=1.0) as run:
        run.until(lambda state: state.status is Status.TRAINING and state.steps["a"] > 0)
        run.replicas["a", killed].kill()
        assert_done(run, run.finish())
    assert batches(tmp_path) == alone[0]


def test_one_that_comes_back_takes_its_part_again(tmp_path: Path) -> None:
    """As a pod does that was evicted: the other has done all meanwhile, and goes on with one version."""
    with running(tmp_path, ["0"]) as run:
        run.until(lambda state: state.status is Status.TRAINING and state.steps["a"] > 0)
        run.join("1")
        assert_done(run, run.finish())
        assert run.replicas["a", "1"].engine.answered > 0
