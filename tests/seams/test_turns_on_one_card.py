"""Engines and a trainer that share a card, all at work: one at a time, everybody, also after a holder has died."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from services.trainer.consumer import Consumer, TrainerBoard
from services.trainer.lease import LeaseFence
from services.trainer.trainer import StudentTrainer
from shared.bus.keys import CARD, TRAINER, train
from shared.bus.leases import LeaseKeeper
from shared.bus.turns import CardTurn
from shared.clock import SystemClock
from shared.contracts.envelope import Message
from shared.contracts.jobs import JobDone, JobKind
from shared.contracts.weights import StepDone
from shared.modeling.checksums import file_checksum
from tests.fakes.bus.memory import MemoryBus
from tests.fakes.bus.memory_server import MemoryServer
from tests.fakes.bus.outliving import pass_s
from tests.fakes.student import HandClock, StudentBench
from tests.fakes.threads import in_thread
from tests.fakes.waiting import wait_until
from tests.unit.modeling.tiny_model import write_tiny_model
from tests.unit.trainer.ground import STUDENT, OpenFence, seal_steps, student_trainer

pytestmark = [pytest.mark.model, pytest.mark.timeout(400)]

LEASE_S = 1.0
STEPS = 3


@pytest.fixture
def tiny_dir(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "tiny")


class Card:
    """Who works there now. Raises AssertionError where two do."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.working: set[str] = set()
        self.had: list[str] = []

    def enter(self, name: str) -> None:
        with self._lock:
            assert not self.working, f"{name} begins while {self.working} work"
            self.working.add(name)
            self.had.append(name)

    def leave(self, name: str) -> None:
        with self._lock:
            self.working.discard(name)


def watched_engine(bench: StudentBench, name: str, card: Card) -> None:
    sleep, wake = bench.engine.sleep, bench.engine.wake

    def sleeps() -> None:
        sleep()
        card.leave(name)

    def wakes() -> None:
        card.enter(name)
        wake()

    bench.engine.sleep, bench.engine.wake = sleeps, wakes  # type: ignore[method-assign]


def watched_trainer(trainer: StudentTrainer, card: Card) -> None:
    move, at_work = trainer.move, [False]

    def moves(device: str) -> None:
        # On a CPU both ways lead there: every other one is off the card.
        at_work[0] = not at_work[0]
        (card.enter if at_work[0] else card.leave)("trainer")
        move(device)

    trainer.move = moves  # type: ignore[method-assign]


def test_engines_and_a_real_trainer_work_one_at_a_time_and_none_starves(tmp_path: Path, tiny_dir: Path) -> None:
    # Whoever has its turn keeps it however long this machine stands still: on the server, no time passes by itself.
    server, card = MemoryServer(HandClock()), Card()
    benches: list[StudentBench] = []
    for replica in ("0", "1"):
        # Each begins awake, in its turn, as a process does.
        bench = StudentBench(tmp_path, lease_s=LEASE_S, replica=replica, server=server, shares_card=True)
        benches.append(bench)
        card.enter(f"engine-{replica}")
        watched_engine(bench, f"engine-{replica}", card)
        wait_until(lambda: bench.turn() is not None and bench.engine.asleep, "the engine to sleep")  # noqa: B023
    bus = MemoryBus(server, lease_s=LEASE_S)
    bus.create_queue(train(STUDENT), TRAINER)
    trainer = student_trainer(tmp_path / "run", tiny_dir)
    watched_trainer(trainer, card)
    turn = CardTurn(bus, "trainer-a-0", SystemClock(), ttl_s=LEASE_S)

    def consume(stopping: threading.Event) -> None:
        fence = LeaseFence(bus, STUDENT, "t0", ttl_s=LEASE_S)
        with LeaseKeeper(bus, lease_s=LEASE_S) as keeper:
            Consumer(
                bus, trainer, fence, keeper, TrainerBoard(), student=STUDENT, name="t0", lease_s=LEASE_S, turn=turn
            ).run(stopping, 0)

    def answer(bench: StudentBench) -> Callable[[threading.Event], None]:
        def work(stopping: threading.Event) -> None:
            while not stopping.is_set():
                bench.worker.turn()

        return work

    # Of a process that was killed in its turn: nobody renews it, and nobody gives it back.
    assert MemoryBus(server, lease_s=LEASE_S).ask_turn(CARD, "trainer-b-0", ttl_s=LEASE_S) is not None
    done: list[Message] = []
    broker = benches[0].broker
    with in_thread(consume), in_thread(answer(benches[0])), in_thread(answer(benches[1])):
        wait_until(lambda: bool(bus.waiting(CARD, ttl_s=LEASE_S)), "somebody to wait for the dead one")
        pass_s(server, 1.2 * LEASE_S)
        for number, sealed in enumerate(seal_steps(tmp_path / "run", tiny_dir, STEPS), start=1):
            bus.publish(train(STUDENT), sealed)
            for job in range(4):
                broker.issue(JobKind.ROLLOUT, 10 * number + job)

        def all_done() -> bool:
            done.extend(broker.results())
            jobs = {message.job_id for message in done if isinstance(message, JobDone) and message.outcome == "ok"}
            return len(jobs) == 4 * STEPS and sum(isinstance(message, StepDone) for message in done) == STEPS

        wait_until(all_done, f"all jobs and steps; {card.had}")
        wait_until(lambda: not card.working, "the card to be free")
    for bench in benches:
        bench.close()
    assert {"engine-0", "trainer"} <= set(card.had) <= {"engine-0", "engine-1", "trainer"}
    # For what it begins with, and for each step.
    assert card.had.count("trainer") == 1 + STEPS
    # And what it made of its batches is what it makes of them alone.
    alone = student_trainer(tmp_path / "alone", tiny_dir)
    alone.restore()
    for sealed in seal_steps(tmp_path / "alone", tiny_dir, STEPS):
        alone.apply(sealed, OpenFence())
        alone.publish()
    weights = [
        file_checksum(tmp_path / where / "weights" / "a" / f"v{STEPS:06d}" / "adapter_model.safetensors")
        for where in ("run", "alone")
    ]
    assert weights[0] == weights[1]
