"""A step's time, streamed beside whole: python benchmarks/streamed_step.py [--groups 16] [--train-s 0.4] [--turns 3]

Broker, batches and the trainer's consumer as they are, on a bus in memory; what is simulated is the GPUs. A student's
groups are all begun at once and come after times with a long tail, and a trainer takes a fixed time for each group on
top of a tiny model's. Whole and streamed in turns, on the same times. The ratio is the step's time over the longer of
its two parts: the last group's answers, or the training of all groups as it was measured.
"""

import argparse
import random
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services.trainer.checkpoint import Checkpoints
from services.trainer.consumer import Consumer, TrainerBoard
from services.trainer.lease import LeaseFence
from services.trainer.step.rows import Pair
from services.trainer.step.trees import Row
from services.trainer.trainer import StudentTrainer
from services.trainer.work import RankWork
from shared.bus.leases import LeaseKeeper
from shared.bus.port import Delivery
from shared.contracts.batches import BatchGroup
from shared.contracts.jobs import Job, JobKind
from shared.files.store import LocalStore
from shared.modeling.loading import load_tokenizer
from tests.fakes.broker import RUN, BrokerBench, FakeStudent
from tests.unit.modeling.tiny_model import write_tiny_model
from tests.unit.trainer.ground import BASE_SHA256, learner, settings

LEASE_S = 30.0
MEDIAN_S = 2.0
"""Of a group's answers; half of the lognormal's logarithms lie within 0.5 of it."""

SPREAD = 0.7
STEPS = 2


class LongTail(FakeStudent):
    """Begins all rollouts at once and ends each after its own time."""

    def __init__(self, bench: BrokerBench, name: str) -> None:
        super().__init__(name, bench.workers, bench.problems)
        self._due: list[tuple[float, Delivery]] = []
        self.slow = {JobKind.ROLLOUT}
        self.began: dict[int, float] = {}
        self.longest: dict[int, float] = {}

    def work(self) -> int:
        taken = super().work()
        now = time.monotonic()
        for delivery in self.begun:
            job = delivery.message
            assert isinstance(job, Job)
            self.began.setdefault(job.step, now)
            # By the job's id, so that both sides wait for the same times.
            seconds = MEDIAN_S * random.Random(job.id).lognormvariate(0.0, SPREAD)
            self.longest[job.step] = max(self.longest.get(job.step, 0.0), seconds)
            self._due.append((now + seconds, delivery))
        self.begun.clear()
        # From a copy, as the list grows shorter meanwhile.
        for at, delivery in [each for each in self._due if each[0] <= now]:
            self._due.remove((at, delivery))
            self._end(delivery, delivery.message)  # type: ignore[arg-type]
        return taken


class SlowWork(RankWork):
    """Takes `train_s` more for each group."""

    train_s = 0.0

    def _rows(self, group: BatchGroup, position: int, pair: Pair | None = None) -> tuple[list[Row], Counter[str]]:
        time.sleep(self.train_s)
        return super()._rows(group, position, pair)


@contextmanager
def trainer_running(bench: BrokerBench, name: str, model: Path, train_s: float) -> Iterator[StudentTrainer]:
    store, step, stopping = LocalStore(bench.run_dir), settings(), threading.Event()
    checkpoints = Checkpoints(store, run=RUN, student=name, base_sha256=BASE_SHA256)
    work = SlowWork(
        learner(model, step), load_tokenizer(model, None), store, checkpoints, step, run=RUN, shorten_prompts=False
    )
    work.train_s = train_s
    assert bench.open_bus is not None
    bus = bench.open_bus()
    trainer = StudentTrainer(
        work, store, checkpoints, step, run=RUN, student=name, base_model=BASE_SHA256, stopping=stopping
    )
    fence = LeaseFence(bus, name, "t0", ttl_s=LEASE_S)
    with LeaseKeeper(bus, lease_s=LEASE_S) as keeper:
        consumer = Consumer(bus, trainer, fence, keeper, TrainerBoard(), student=name, name="t0", lease_s=LEASE_S)
        thread = threading.Thread(target=consumer.run, args=(stopping, 0))
        thread.start()
        try:
            yield trainer
        finally:
            stopping.set()
            thread.join()


def ratios(directory: Path, model: Path, groups: int, train_s: float, *, stream: bool) -> list[float]:
    """Of every step of both students."""
    overrides = ("gate.mode=never", f"problems.per_step={groups}", f"run.stream={str(stream).lower()}")
    bench = BrokerBench(directory, overrides)
    students = {name: LongTail(bench, name) for name in "ab"}
    bench.students, bench.trainers = dict(students), {}
    ended: dict[tuple[str, int], float] = {}
    running = threading.Event()
    loop = threading.Thread(target=bench.runner.loop, args=(running, threading.Event()))
    with trainer_running(bench, "a", model, train_s) as one, trainer_running(bench, "b", model, train_s) as other:
        trainers = {"a": one, "b": other}
        loop.start()
        while len(ended) < len(students) * STEPS:
            for student in students.values():
                student.work()
            for name, step in bench.state.steps.items():
                if step:
                    ended.setdefault((name, step), time.monotonic())
            time.sleep(0.005)
        running.set()
        loop.join()
    # What no order of the work could be faster than.
    longer = {(name, step): max(students[name].longest[step], trained_s(trainers[name], step)) for name, step in ended}
    return [(at - students[name].began[step]) / longer[name, step] for (name, step), at in ended.items()]


def trained_s(trainer: StudentTrainer, step: int) -> float:
    seconds = trainer.done(step).metrics.seconds
    return sum(seconds.get(stage, 0.0) for stage in ("load", "teacher", "student", "trace", "optimizer"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", type=int, default=16)
    parser.add_argument("--train-s", type=float, default=0.4)
    parser.add_argument("--turns", type=int, default=3)
    given = parser.parse_args()
    found: dict[bool, list[float]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as directory:
        model = write_tiny_model(Path(directory) / "model")
        for turn in range(given.turns):
            for stream in (False, True):
                place = Path(directory) / f"{turn}-{stream}"
                found[stream] += ratios(place, model, given.groups, given.train_s, stream=stream)
                print(f"turn {turn}, stream {stream}: {[round(each, 2) for each in found[stream][-4:]]}", flush=True)
    for stream, each in found.items():
        print(f"stream = {stream}: step over its longer part, median of {len(each)}: {statistics.median(each):.2f}")


if __name__ == "__main__":
    main()
