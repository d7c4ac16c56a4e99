"""A consumer on a bus in memory, and what the broker would see of it."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services.trainer.consumer import Consumer, TrainerBoard
from services.trainer.lease import LeaseFence
from services.trainer.step.step import StepSettings
from services.trainer.trainer import StudentTrainer
from shared.bus.keys import BROKER, RESULTS, TRAINER, train
from shared.bus.leases import LeaseKeeper
from shared.bus.turns import CardTurn
from shared.contracts.envelope import Message
from shared.contracts.weights import StepDone
from tests.fakes.bus.memory import MemoryBus
from tests.fakes.student import HandClock
from tests.fakes.waiting import WAIT_S
from tests.unit.trainer.ground import (
    STUDENT,
    Ahead,
    checkpoints_of,
    student_trainer,
)

LEASE_S = 0.6
QUEUE = train(STUDENT)


class Running:
    """A consumer in a thread, as the service runs it."""

    def __init__(self, bus: MemoryBus, trainer: StudentTrainer, holder: str, turn: CardTurn | None = None) -> None:
        self.trainer = trainer
        self._turn = turn
        self.board = TrainerBoard()
        self.stopping = threading.Event()
        self.error: BaseException | None = None
        self._bus = bus
        self._holder = holder
        self.fence = LeaseFence(bus, STUDENT, holder, ttl_s=LEASE_S)
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        floor = checkpoints_of(self.trainer._store).highest_token()
        with LeaseKeeper(self._bus, lease_s=LEASE_S) as keeper:
            consumer = Consumer(
                self._bus,
                self.trainer,
                self.fence,
                keeper,
                self.board,
                student=STUDENT,
                name=self._holder,
                lease_s=LEASE_S,
                turn=self._turn,
            )
            try:
                consumer.run(self.stopping, floor)
            except Exception as error:  # noqa: BLE001 - the test says which it is to be
                self.error = error


class Ground:
    """A bus, a run directory, and what the broker would see."""

    def __init__(self, run_dir: Path, tiny_dir: Path) -> None:
        self.run_dir, self.tiny_dir = run_dir, tiny_dir
        self.bus = MemoryBus(clock=HandClock(), lease_s=LEASE_S)
        self.bus.create_queue(QUEUE, TRAINER)
        self.bus.create_queue(RESULTS, BROKER)
        self.answers: list[Message] = []

    @contextmanager
    def running(
        self, holder: str = "t0", step: StepSettings | None = None, turn: CardTurn | None = None
    ) -> Iterator[Running]:
        one = Running(self.bus, student_trainer(self.run_dir, self.tiny_dir, step), holder, turn)
        one.thread.start()
        try:
            yield one
        finally:
            one.stopping.set()
            one.thread.join(timeout=WAIT_S)
            assert not one.thread.is_alive()

    def read(self, count: int) -> list[Message]:
        """All answers so far, once there are `count`."""
        deadline = time.monotonic() + WAIT_S
        while len(self.answers) < count:
            assert time.monotonic() < deadline, f"expected {count} answers, got {self.answers}"
            for delivery in self.bus.take([(RESULTS, BROKER)], "broker", limit=8, block_s=0.1):
                self.answers.append(delivery.message)
                self.bus.complete(delivery)
        return self.answers

    def settled(self) -> bool:
        return self.bus.queue_depth(QUEUE, TRAINER) == (0, 0)


def steps_of(answers: list[Message]) -> list[int]:
    return [answer.step for answer in answers if isinstance(answer, StepDone)]


def announce(bus: MemoryBus, ahead: list[Ahead]) -> None:
    for sealed, payload in ahead:
        bus.server.payloads.setdefault(sealed.payload.key, {})[sealed.payload.field] = payload
        bus.publish(QUEUE, sealed)
