"""A trainer refuses a step, the cause is mended, the run is resumed: broker and trainer end it, each step applied once.

The broker's runner and a real trainer's consumer share one bus; student b is trained in name only.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shared.bus.keys import RESULTS
from shared.bus.leases import LeaseKeeper
from shared.contracts.acting import Control
from shared.contracts.run import RunState, Status
from shared.files.store import LocalStore
from tests.fakes.broker import RUN, THREE, BrokerBench
from tests.fakes.bus.memory import MemoryBus
from tests.fakes.threads import in_thread
from tests.fakes.waiting import WAIT_S
from tests.unit.modeling.tiny_model import write_tiny_model

STUDENT = "a"
BASE_SHA256 = "b" * 64

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def tiny_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch")
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


@contextmanager
def trainer_of(bench: BrokerBench, tiny_dir: Path) -> Iterator[None]:
    """A trainer's service of student a in a thread, on the bench's bus and directory."""
    from services.trainer.checkpoint import Checkpoints
    from services.trainer.consumer import Consumer, TrainerBoard
    from services.trainer.lease import LeaseFence
    from services.trainer.trainer import StudentTrainer
    from tests.unit.trainer.ground import learner, rank_work, settings

    store, bus, stopping = LocalStore(bench.run_dir), MemoryBus(bench.server), threading.Event()
    checkpoints = Checkpoints(store, run=RUN, student=STUDENT, base_sha256=BASE_SHA256)
    trainer = StudentTrainer(
        rank_work(learner(tiny_dir, settings()), tiny_dir, checkpoints, settings(), store, run=RUN),
        store,
        checkpoints,
        settings(),
        run=RUN,
        student=STUDENT,
        base_model=BASE_SHA256,
        stopping=stopping,
    )

    def consume(stopping: threading.Event) -> None:
        with LeaseKeeper(bus, lease_s=bus.lease_s) as keeper:
            fence = LeaseFence(bus, STUDENT, "t0", ttl_s=bus.lease_s)
            consumer = Consumer(
                bus, trainer, fence, keeper, TrainerBoard(), student=STUDENT, name="t0", lease_s=bus.lease_s
            )
            consumer.run(stopping, floor=0)

    with in_thread(consume, stopping):
        yield


def run_until(bench: BrokerBench, reached: Callable[[RunState], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not reached(bench.state):
        assert time.monotonic() < deadline, bench.state.model_dump_json(indent=1)
        bench.work()
        bench.turn()


def is_sealed(state: RunState) -> bool:
    return any(phase.student == STUDENT and phase.step and phase.step.sealed for phase in state.phases)


def resume(bench: BrokerBench, number: int) -> None:
    bench.workers.publish(RESULTS, Control(id=str(number), action="resume"))
    revision = bench.state.revision
    run_until(bench, lambda state: state.revision > revision)


@pytest.mark.parametrize(
    ("restarted", "overrides"),
    [(False, ()), (True, ()), (True, THREE)],
    ids=["same broker", "broker restarted between", "of three, broker restarted between"],
)
def test_a_refused_step_is_trained_once_its_batch_is_restored(
    tmp_path: Path, tiny_dir: Path, restarted: bool, overrides: tuple[str, ...]
) -> None:
    bench = BrokerBench(tmp_path, ("feedback.revise_share=0.0", *overrides))
    bench.trainers[STUDENT].held = True
    run_until(bench, is_sealed)
    batch = tmp_path / "batches" / STUDENT / "s00001" / "groups.jsonl"
    whole = batch.read_bytes()
    batch.write_bytes(whole[:-20])
    with trainer_of(bench, tiny_dir):
        run_until(bench, lambda state: state.paused is not None)
        assert bench.state.paused is not None
        assert bench.state.paused.startswith("trainer-a cannot apply step 1: StorageError")

        resume(bench, 1)
        assert bench.state.paused is not None, "nothing was mended: it stands again, with the reason"
        assert "restore its files, then resume the run" in bench.state.paused

        batch.write_bytes(whole)
        if restarted:
            bench.start()
            assert bench.state.paused is not None
        resume(bench, 2)
        assert bench.state.paused is None
        run_until(bench, lambda state: state.status is Status.DONE)
    assert bench.state.version == {name: f"{name}@v2" for name in bench.settings.names}
    applied = [event.step for event in bench.events("step") if event.kind == "step" and event.student == STUDENT]
    assert applied == [1, 2]
    samples = 2 * bench.settings.problems.per_step * 3
    assert bench.state.tallies[STUDENT].samples == samples, "a batch that is sealed again is counted once"
    assert batch.read_bytes() == whole


def test_resuming_a_run_whose_trainer_still_has_the_batch_applies_it_once(tmp_path: Path, tiny_dir: Path) -> None:
    """It was paused by a person: the batch is announced twice, and trained on once."""
    bench = BrokerBench(tmp_path, ("feedback.revise_share=0.0",))
    bench.trainers[STUDENT].held = True
    run_until(bench, is_sealed)
    bench.workers.publish(RESULTS, Control(id="1", action="pause", reason="lunch"))
    run_until(bench, lambda state: state.paused is not None)
    resume(bench, 2)
    with trainer_of(bench, tiny_dir):
        run_until(bench, lambda state: state.status is Status.DONE)
    applied = [event.step for event in bench.events("step") if event.kind == "step" and event.student == STUDENT]
    assert applied == [1, 2]
