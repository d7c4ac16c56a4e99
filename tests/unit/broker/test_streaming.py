"""A run that streams, on the bench: what the trainer is told to begin with is what its batch says, in its order."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from services.broker.exchange.batches import adopt
from shared.bus.keys import RESULTS
from shared.bus.payloads import unpack
from shared.contracts.acting import ActAsked, ExchangeAct, ExchangeRef
from shared.contracts.batches import AddedGroup, BatchGroup, BatchManifest, mini_batch_of, positions_of
from shared.contracts.events import Acted
from shared.contracts.jobs import Job, JobKind
from shared.contracts.run import PhaseState, RunState
from shared.files.batches import read_groups
from shared.files.store import LocalStore
from tests.fakes.broker import RUN, THREE, BrokerBench
from tests.fakes.bus.memory_server import MemoryServer
from tests.fakes.whole_runs import OFF, assert_whole

STREAM = ("run.stream=true", *OFF)
FOUR = ("problems.per_step=4", "optimizer.mini_batches=2", *STREAM)


def one_is_ahead(state: RunState) -> bool:
    return any(phase.step is not None and phase.step.ahead and not phase.step.sealed for phase in state.phases)


def manifest_of(bench: BrokerBench, student: str, step: int) -> BatchManifest:
    sealed = adopt(LocalStore(bench.run_dir), student, step, RUN)
    assert sealed is not None
    return sealed.manifest


def assert_streamed(bench: BrokerBench) -> None:
    """Every batch names its own groups, each once."""
    store = LocalStore(bench.run_dir)
    for student in bench.settings.names:
        for step in (1, 2):
            manifest = manifest_of(bench, student, step)
            assert manifest.order is not None
            lines = (bench.run_dir / f"batches/{student}/s{step:05d}/groups.jsonl").read_bytes().splitlines()
            groups = read_groups(store, f"batches/{student}/s{step:05d}", manifest)
            found = {
                group.problem_id: hashlib.sha256(line).hexdigest() for group, line in zip(groups, lines, strict=True)
            }
            assert sorted(each.problem_id for each in manifest.order) == sorted(found)
            assert {each.problem_id: each.sha256 for each in manifest.order} == found


def told(bench: BrokerBench, student: str, step: int) -> list[AddedGroup]:
    return [each.group for each in bench.trainers[student].begun if each.step == step]


def with_groups_apart(bench: BrokerBench, until: Callable[[RunState], bool]) -> None:
    """Rollouts come one at a time, so that a step is not whole at once."""
    for student in bench.students.values():
        student.slow = {JobKind.ROLLOUT}
    while not until(bench.state):
        for student in bench.students.values():
            student.work()
            if student.begun:
                first = student.begun.pop(0)
                student._end(first, first.message)  # type: ignore[arg-type]
        for trainer in bench.trainers.values():
            trainer.work()
        bench.turn()


def everything(bench: BrokerBench) -> None:
    for student in bench.students.values():
        student.slow = set()
        student.end_begun()
    bench.finish()


@pytest.mark.parametrize("mini_batches", [1, 2])
def test_what_is_told_ahead_is_what_the_batch_has_in_its_order(run_dir: Path, mini_batches: int) -> None:
    bench = BrokerBench(run_dir, ("problems.per_step=4", f"optimizer.mini_batches={mini_batches}", *STREAM))
    with_groups_apart(bench, lambda state: state.steps == {"a": 2, "b": 2})
    everything(bench)
    assert_streamed(bench)
    for student in "ab":
        for step in (1, 2):
            order = manifest_of(bench, student, step).order
            assert order is not None
            assert told(bench, student, step) == list(order[:3]), "all but the last, which comes with its batch"
        for sealed in bench.trainers[student].begun:
            assert (sealed.groups, sealed.phase_start) == (4, sealed.step == 1)
            names = sorted(each.problem_id for each in manifest_of(bench, student, sealed.step).order or ())
            assert names[sealed.position] == sealed.group.problem_id


def test_a_group_s_payload_is_its_line_and_goes_with_its_step(run_dir: Path) -> None:
    server = MemoryServer()
    bench = BrokerBench(run_dir, FOUR, server=server)
    bench.trainers["a"].held = True
    with_groups_apart(bench, lambda state: any(p.student == "a" and p.step and p.step.ahead for p in state.phases))
    [phase] = [phase for phase in bench.state.phases if phase.student == "a"]
    assert phase.step is not None
    [(key, fields)] = [(key, fields) for key, fields in server.payloads.items() if key == "res:a:s1"]
    [name] = [name for name in fields if name.endswith(".group")]
    bench.trainers["a"].held = False
    everything(bench)
    [sealed] = [each for each in bench.trainers["a"].begun if each.payload.field == name]
    group = unpack(sealed.payload, fields[name], BatchGroup)
    assert hashlib.sha256(group.model_dump_json().encode()).hexdigest() == sealed.group.sha256
    assert key not in server.payloads


@pytest.mark.parametrize("emptied", [False, True])
@pytest.mark.parametrize("overrides", [FOUR, (*FOUR, *THREE, "problems.per_step=6")], ids=["two", "three"])
def test_a_broker_that_is_started_again_between_two_groups_goes_on(
    run_dir: Path, emptied: bool, overrides: tuple[str, ...]
) -> None:
    server = MemoryServer()
    bench = BrokerBench(run_dir, overrides, server=server)
    with_groups_apart(bench, one_is_ahead)
    before = {name: len(told(bench, name, 1)) for name in bench.trainers}
    if emptied:
        server.flush()
        for student in bench.students.values():
            student.begun.clear()
    bench.start()
    assert one_is_ahead(bench.state) == (not emptied)
    everything(bench)
    assert_streamed(bench)
    for name, trainer in bench.trainers.items():
        assert trainer.applied == [1, 2]
        problems = [each.problem_id for each in told(bench, name, 1)]
        order = manifest_of(bench, name, 1).order
        assert order is not None
        if not emptied:
            assert len(set(problems)) == len(problems), "nothing is told twice"
        else:
            again = [each.problem_id for each in order[:-1]]
            assert problems[before[name] :] == again, "all is made again, and told but for the last"


def test_a_group_whose_tutor_is_silent_is_sealed_without_its_feedback(run_dir: Path) -> None:
    bench = BrokerBench(run_dir, ("problems.per_step=4", "feedback.tutor_timeout_s=20", *STREAM))
    bench.students["b"].slow = {JobKind.FEEDBACK}
    bench.trainers["a"].held = True
    bench.run(lambda _: len(bench.students["b"].begun) == 4)
    begun = bench.students["b"].begun
    silent = begun.pop()
    bench.students["b"].end_begun()
    bench.settle()
    [phase] = [phase for phase in bench.state.phases if phase.student == "a"]
    assert phase.step is not None and not phase.step.sealed
    ahead = [added.problem_id for added in phase.step.ahead]
    assert len(ahead) == 3
    bench.clock.now_s += 30
    bench.trainers["a"].held = False
    bench.run(lambda state: state.steps["a"] >= 1)
    order = manifest_of(bench, "a", 1).order
    assert order is not None and [each.problem_id for each in order[:3]] == ahead
    manifest = manifest_of(bench, "a", 1)
    groups = {group.problem_id: group for group in read_groups(LocalStore(run_dir), "batches/a/s00001", manifest)}
    assert {sample.verdict for sample in groups[order[3].problem_id].samples} == {"fb_none"}
    assert isinstance(silent.message, Job) and order[3].problem_id in silent.message.id


@pytest.mark.parametrize(("mini_batches", "ahead"), [(1, 1), (2, 3)])
def test_feedback_that_is_excluded_after_its_group_was_sealed_is_not_in_the_batch(
    run_dir: Path, mini_batches: int, ahead: int
) -> None:
    """ahead: groups that its trainer was told of by then; three are one of the second mini-batch, too."""

    def reached(state: RunState) -> list[PhaseState]:
        return [p for p in state.phases if p.step and len(p.step.ahead) == ahead and not p.step.sealed]

    bench = BrokerBench(run_dir, ("problems.per_step=4", f"optimizer.mini_batches={mini_batches}", *STREAM))
    with_groups_apart(bench, lambda state: bool(reached(state)))
    [phase, *_] = reached(bench.state)
    assert phase.step is not None
    first = phase.step.ahead[0]
    exchange = ExchangeRef(student=phase.student, step=1, problem_id=first.problem_id, sample=1)
    act = ExchangeAct(id="e" * 32, act="exclude", exchange=exchange, by="eve", reason="wrong")
    bench.workers.publish(RESULTS, ActAsked(act=act))
    everything(bench)
    order = manifest_of(bench, phase.student, 1).order
    assert order is not None and first not in order
    positions = positions_of(each.problem_id for each in order)
    turns = [mini_batch_of(positions[each.problem_id], 4, mini_batches) for each in order]
    assert turns == sorted(turns), "no group comes behind a later mini-batch"
    told_twice = [each for each in told(bench, phase.student, 1) if each.problem_id == first.problem_id]
    assert len(told_twice) == 2 and told_twice[1] in order
    store = LocalStore(run_dir)
    manifest = manifest_of(bench, phase.student, 1)
    groups = {group.problem_id: group for group in read_groups(store, f"batches/{phase.student}/s00001", manifest)}
    sample = groups[first.problem_id].samples[1]
    assert sample.feedback is None and sample.withheld is not None
    late = act.model_copy(update={"id": "f" * 32, "exchange": exchange.model_copy(update={"sample": 2})})
    bench.workers.publish(RESULTS, ActAsked(act=late))
    bench.settle()
    refused = [event.refused for event in bench.events("acted") if isinstance(event, Acted)]
    assert refused[0] is None and "is sealed" in str(refused[1])


def test_a_run_that_does_not_stream_has_no_order_and_tells_nothing_ahead(run_dir: Path) -> None:
    bench = BrokerBench(run_dir, OFF)
    bench.finish()
    assert_whole(bench)
    assert not [each for trainer in bench.trainers.values() for each in trainer.begun]
    assert "order" not in (run_dir / "batches/a/s00001/manifest.json").read_text()


def test_streaming_changes_no_group(tmp_path: Path) -> None:
    """The order in which rollouts are asked for is another; what is asked and answered is not."""
    found = []
    for name, stream in (("whole", "false"), ("streamed", "true")):
        bench = BrokerBench(
            tmp_path / name, ("problems.per_step=4", "optimizer.mini_batches=2", f"run.stream={stream}")
        )
        bench.finish()
        files = sorted((tmp_path / name / "batches").rglob("groups.jsonl"))
        found.append([path.read_bytes() for path in files])
    assert found[0] == found[1] and len(found[0]) == 4
