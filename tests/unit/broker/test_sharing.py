"""A broker's run whose students share their rollouts: what a batch holds of the peer's, and that it survives losses."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import pytest

from services.broker.exchange.batches import adopt, build_group
from shared.contracts.batches import BatchGroup, BatchManifest
from shared.contracts.jobs import PromptOutput
from shared.contracts.run import RunState, Status
from shared.files.batches import batch_directory, read_groups
from shared.files.store import LocalStore
from shared.problems.formats import format_named
from shared.problems.problem import Problem
from tests.fakes.broker import RUN, STUDENTS_AB, BrokerBench, create_queues, sample_of

HACPO = ("gate.mode=cognizance", "run.method=hacpo", "run.steps_per_round=3", "hacpo.capability_window=2")
RIGHT, WRONG = " u = 9 * 2 = 18", " u = 9 + 2 = 11"
PROBLEM = Problem("p1", "physics", "voltage", "What voltage drives 9 A through 2 ohm?", "18")
PEER = {"a": "b", "b": "a"}


def batch_of(run_dir: Path, student: str, step: int) -> tuple[BatchManifest, list[BatchGroup]]:
    store = LocalStore(run_dir)
    sealed = adopt(store, student, step, RUN)
    assert sealed is not None
    return sealed.manifest, list(read_groups(store, batch_directory(student, step), sealed.manifest))


def files(run_dir: Path) -> dict[Path, bytes]:
    return {path.relative_to(run_dir): path.read_bytes() for path in sorted(run_dir.glob("batches/*/*/groups.jsonl"))}


@pytest.fixture
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, bytes]:
    run_dir = tmp_path_factory.mktemp("undisturbed")
    BrokerBench(run_dir, HACPO).finish()
    return files(run_dir)


def grouped(own: Sequence[str], peer: Sequence[str]) -> BatchGroup:
    rollouts = PromptOutput(prompt_token_ids=(1, 2), samples=tuple(map(sample_of, own)))
    drawn, format_ = [sample_of(text) for text in peer], format_named("integer")
    return build_group(PROBLEM, rollouts, None, format_, exclude_self=True, policy_gradient=True, peer=drawn)


@pytest.mark.parametrize(
    ("own", "peer", "mask"),
    [
        ([WRONG, WRONG], [WRONG, RIGHT], 1),
        ([WRONG, WRONG], [RIGHT, RIGHT], 1),
        ([WRONG, RIGHT], [WRONG, WRONG], 1),
        ([WRONG, WRONG], [WRONG, WRONG], 0),
        ([RIGHT, RIGHT], [RIGHT, RIGHT], 0),
    ],
)
def test_a_group_teaches_where_the_rewards_of_both_are_not_all_equal(
    own: list[str], peer: list[str], mask: int
) -> None:
    group = grouped(own, peer)
    assert [sample.mask for sample in group.samples] == [sample.mask for sample in group.peer_samples] == [mask] * 2
    assert [sample.reward for sample in group.peer_samples] == [float(text == RIGHT) for text in peer]


def test_a_batch_of_another_method_says_nothing_of_a_peer() -> None:
    group = grouped([WRONG, RIGHT], [])
    assert "peer_samples" not in group.model_dump_json()
    assert [sample.mask for sample in group.samples] == [1, 1]


def test_each_batch_holds_the_peer_s_rollouts_of_the_same_problems(run_dir: Path) -> None:
    bench = BrokerBench(run_dir, HACPO)
    state = bench.finish()
    assert {job.kind.value for student in bench.students.values() for job in student.done} == {"eval", "rollout"}
    for student, peer in PEER.items():
        for step in (1, 2, 3):
            own, others = ({each.problem_id: each for each in batch_of(run_dir, s, step)[1]} for s in (student, peer))
            assert own.keys() == others.keys()
            for name, group in own.items():
                drawn = [(s.index, s.text, s.logprobs, s.finish_reason, s.reward) for s in others[name].samples]
                assert [(s.index, s.text, s.logprobs, s.finish_reason, s.reward) for s in group.peer_samples] == drawn
    assert state.tallies["a"].samples == 18, "the peer's are counted with the peer"


def test_a_manifest_says_how_able_both_have_been_over_the_last_steps(run_dir: Path) -> None:
    BrokerBench(run_dir, HACPO).finish()
    means = {s: [batch_of(run_dir, s, step)[0].mean_reward for step in (1, 2, 3)] for s in STUDENTS_AB}
    assert means["a"] != means["b"]
    for student in STUDENTS_AB:
        for step, window in ((1, slice(0, 1)), (2, slice(0, 2)), (3, slice(1, 3))):
            found = batch_of(run_dir, student, step)[0].capabilities
            assert found == {name: pytest.approx(fmean(means[name][window])) for name in STUDENTS_AB}


def lose_redis(bench: BrokerBench) -> None:
    bench.server.flush()
    create_queues(bench.workers)
    bench.start()


def one_at(step: int, state: RunState) -> bool:
    return any(phase.step is not None and phase.step.step == step for phase in state.phases)


def both_sealed(state: RunState) -> bool:
    return len([phase for phase in state.phases if phase.step is not None and phase.step.sealed]) == 2


@pytest.mark.parametrize("redis_lost", [False, True])
@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_broker_that_is_started_again_seals_the_same_batches(
    run_dir: Path, undisturbed: dict[Path, bytes], step: int, redis_lost: bool
) -> None:
    bench = BrokerBench(run_dir, HACPO)
    bench.run(lambda state: one_at(step, state))
    if redis_lost:
        lose_redis(bench)
    else:
        bench.start()
    assert bench.finish().steps == {"a": 3, "b": 3}
    assert files(run_dir) == undisturbed


@pytest.mark.parametrize("student", STUDENTS_AB)
def test_one_of_the_two_batches_written_and_the_other_lost_with_redis(
    run_dir: Path, undisturbed: dict[Path, bytes], student: str
) -> None:
    """The rollouts of the one that is there are made no more; its peer's batch takes them from it."""
    bench = BrokerBench(run_dir, HACPO)
    for trainer in bench.trainers.values():
        trainer.held = True
    bench.run(both_sealed)
    lost = batch_directory(PEER[student], 1)
    shutil.rmtree(run_dir / lost)
    lose_redis(bench)
    before = len(bench.students[student].done)
    bench.run(lambda _: (run_dir / lost).exists())
    assert len(bench.students[student].done) == before
    assert files(run_dir) == {path: undisturbed[path] for path in files(run_dir)}
    for trainer in bench.trainers.values():
        trainer.held = False
    bench.finish()
    assert files(run_dir) == undisturbed


def test_a_peer_s_batch_that_is_damaged_pauses_the_run_and_is_named(run_dir: Path) -> None:
    """Its mean reward is part of the next step's capabilities."""
    bench = BrokerBench(run_dir, HACPO)
    bench.run(lambda state: one_at(2, state))
    manifest = run_dir / batch_directory("b", 1) / "manifest.json"
    whole = manifest.read_bytes()
    manifest.write_bytes(b"{}")
    state = bench.run(lambda state: state.paused is not None)
    assert state.paused is not None and "batches/b/s00001" in state.paused and "restore its files" in state.paused
    manifest.write_bytes(whole)
    assert state.status is Status.TRAINING
