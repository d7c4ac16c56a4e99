"""The processes that `paper_size.py` starts: `python benchmarks/paper_size_parts.py broker | students | trainers …`

- broker: `services.broker` as it is, with clocks around each report that it handles and around its files.
- students: replicas as they are, one thread each, around an engine that waits and then gives answers of full length.
- trainers: the trainers' consumers as they are; what is simulated is the step, which reads its batch and then waits.

Each writes what its clocks say to a file when it is ended by SIGTERM, and ends with the error of a thread that failed.
"""

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.paper_size_engine import PaperEngine
from shared.bus.leases import LeaseKeeper
from shared.bus.port import Commit, Delivery
from shared.bus.redis import RedisBus
from shared.clock import SystemClock
from shared.config.environment import ServiceEnvironment
from shared.config.loading import settings_of
from shared.contracts.jobs import Job, JobDone
from shared.obs.presence import MISSED_BEATS

RUN = "papersize"
LEASE_S = 300.0
ASKED = "a job of a step published"
TRAINING_SHARE = 0.15
"""Of a step."""


class Clocks:
    """(when it ended, what, seconds), of many threads; times are the machine's wall time."""

    def __init__(self) -> None:
        self.spans: list[tuple[float, str, float]] = []
        self.counts: Counter[str] = Counter()

    def timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def clocked(*given: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return call(*given, **named)
            finally:
                self.spans.append((time.time(), name, time.perf_counter() - began))

        return clocked

    def write(self, path: Path) -> None:
        path.write_text(json.dumps({"spans": self.spans, "counts": self.counts}))


def broker(report: Path) -> int:
    from services.broker import app, runner
    from shared.files.store import LocalStore

    clocks = Clocks()
    runner.write_state_file = clocks.timed("file: state.json", runner.write_state_file)  # type: ignore[attr-defined]
    runner.atomic_write = clocks.timed("file: records", runner.atomic_write)  # type: ignore[attr-defined]
    for name in ("write_directory", "read_manifest", "open_verified"):
        setattr(LocalStore, name, clocks.timed(f"file: {name}", getattr(LocalStore, name)))
    RedisBus.commit = _counted(clocks, clocks.timed("redis: commit", RedisBus.commit))  # type: ignore[method-assign]
    RedisBus.get_payload = clocks.timed("redis: get_payload", RedisBus.get_payload)  # type: ignore[method-assign]
    RedisBus.heartbeats = clocks.timed("redis: heartbeats", RedisBus.heartbeats)  # type: ignore[method-assign]
    handle = runner.Runner._handle_delivery

    def handled(self: runner.Runner, delivery: Delivery) -> None:
        message, began, worked = delivery.message, time.perf_counter(), time.thread_time()
        handle(self, delivery)
        now = time.time()
        clocks.spans.append((now, "worked", time.thread_time() - worked))
        kind = (
            f"{type(message).__name__} {message.kind.value}" if isinstance(message, JobDone) else type(message).__name__
        )
        clocks.spans.append((now, f"report: {kind}", time.perf_counter() - began))
        # An entry's id begins with the server's milliseconds at which it was published.
        clocks.spans.append((now, "wait", now - int(delivery.entry_id.partition("-")[0]) / 1000))
        if isinstance(message, JobDone):
            clocks.counts[f"{message.student} {message.kind.value}"] += message.output_tokens

    runner.Runner._handle_delivery = handled  # type: ignore[method-assign]
    try:
        return _profiled(app.main, report.with_suffix(".profile"))
    finally:
        clocks.write(report)


def _counted(clocks: Clocks, commit: Callable[..., None]) -> Callable[..., None]:
    def counted(self: RedisBus, made: Commit) -> None:
        commit(self, made)
        if any(isinstance(message, Job) and message.step for _, message in made.publish):
            clocks.spans.append((time.time(), ASKED, 0.0))
        clocks.counts["commits"] += 1
        clocks.counts["bytes of state"] += len(made.state)

    return counted


def _profiled(main: Callable[[], int], path: Path) -> int:
    """Of its threads the one that handles reports is profiled, where OPCOD_BENCH_PROFILE asks for it."""
    if "OPCOD_BENCH_PROFILE" not in os.environ:
        return main()
    import cProfile

    from services.broker.app import Broker

    run, profile = Broker._run, cProfile.Profile()
    Broker._run = lambda self: profile.runcall(run, self)  # type: ignore[method-assign]
    try:
        return main()
    finally:
        profile.dump_stats(path)


class SimulatedReplicas:
    """Replicas `first` to `first + count - 1` of one student, in threads that share one bus."""

    def __init__(self, run_dir: Path, url: str, student: str, first: int, count: int, step_s: float) -> None:
        from services.student.app import build_worker
        from services.student.board import Board
        from services.student.config import INTERACTIVE_BOUND, StudentConfig
        from services.student.http.interactive import InteractiveQueue
        from services.student.work.calls import Running

        settings = settings_of(run_dir)
        self.bus = RedisBus(url, RUN, lease_s=LEASE_S)
        self.stopping = threading.Event()
        self._heartbeat_s = settings.bus.heartbeat_s
        self._boards: list[tuple[StudentConfig, Board]] = []
        self._clock = SystemClock()
        self._leases = LeaseKeeper(self.bus, lease_s=LEASE_S)
        admitted = threading.Event()
        admitted.set()
        self.workers = []
        for number in range(first, first + count):
            environment = ServiceEnvironment(
                run=RUN, run_dir=run_dir, cache_dir=run_dir, redis_url=url, student=student, replica=str(number)
            )
            config, board = StudentConfig(environment, settings, None, student), Board(self._clock)
            self._boards.append((config, board))
            self.workers.append(
                build_worker(
                    config,
                    engine=PaperEngine(config.domain, step_s, config.section.slots),
                    bus=self.bus,
                    leases=self._leases,
                    board=board,
                    interactive=InteractiveQueue(bound=INTERACTIVE_BOUND),
                    running=Running(self._clock, drain_s=0.2),
                    clock=self._clock,
                    stopping=self.stopping,
                    admitted=admitted,
                )
            )

    def start(self) -> list[threading.Thread]:
        threads = [threading.Thread(target=worker.run) for worker in self.workers]
        threads.append(threading.Thread(target=self._beat))
        for thread in threads:
            thread.start()
        return threads

    def _beat(self) -> None:
        from services.student.board import student_heartbeat

        while not self.stopping.wait(self._heartbeat_s):
            for config, board in self._boards:
                beat = student_heartbeat(config, board, self._clock, self.stopping)
                self.bus.beat(beat, ttl_s=MISSED_BEATS * self._heartbeat_s)


def students(run_dir: Path, url: str, student: str, first: int, count: int, step_s: float) -> int:
    threading.stack_size(512 * 1024)
    replicas = SimulatedReplicas(run_dir, url, student, first, count, step_s)
    signal.signal(signal.SIGTERM, lambda *_: replicas.stopping.set())
    for thread in replicas.start():
        thread.join()
    return 0


class ReadingTrainer:
    """What a consumer asks of a trainer: it reads each batch as a trainer does, waits, and publishes a tiny version."""

    def __init__(self, run_dir: Path, student: str, step_s: float, clocks: Clocks) -> None:
        from shared.files.store import LocalStore

        self.step = 0
        self.rendering = None
        self._run_dir = run_dir
        self._store = LocalStore(run_dir)
        self._student = student
        self._step_s = step_s
        self._clocks = clocks
        self._done: dict[int, Any] = {}

    @property
    def version(self) -> str:
        return f"{self._student}@v{self.step}"

    def restore(self, say: Callable[[str], None]) -> None:
        """There is nothing to go on from."""

    def add(self, sealed: Any, payload: bytes, fence: Any) -> None:  # noqa: ARG002
        from services.trainer.batches import read_group

        self._clocks.timed("trainer: group", read_group)(sealed, payload)

    def apply(self, sealed: Any, fence: Any) -> None:  # noqa: ARG002
        from services.trainer.batches import read_batch
        from tests.fakes.figures import step_done

        batch = self._clocks.timed("trainer: batch", read_batch)(self._store, sealed, RUN)
        self._clocks.counts["groups read"] += len(batch.groups)
        self._clocks.counts["samples read"] += sum(len(group.samples) for group in batch.groups)
        time.sleep(self._step_s * TRAINING_SHARE)
        self.step = sealed.step
        self._done[self.step] = step_done(self._student, self.step, sealed.sha256)

    def done(self, step: int) -> Any:
        return self._done[step]

    def publish(self) -> Any:
        from shared.contracts.ids import version_folder, version_name
        from shared.contracts.weights import WeightsPublished
        from tests.fakes.student import tensor_file, write_version

        name = version_folder(self.step)
        weights = self._run_dir / "weights" / self._student
        if not (weights / name).exists():
            write_version(
                weights,
                self.step,
                {"adapter_model.safetensors": tensor_file(self.step), "adapter_config.json": b"{}"},
                run=RUN,
                student=self._student,
                version=self.version,
                parent=version_name(self._student, self.step - 1),
                checksum=self._done[self.step].checksum,
            )
        return WeightsPublished(
            student=self._student,
            version=self.version,
            step=self.step,
            uri=f"weights/{self._student}/{name}",
            manifest_sha256="0" * 64,
        )


def trainers(run_dir: Path, url: str, names: Sequence[str], step_s: float, report: Path) -> int:
    from services.trainer.consumer import Consumer, TrainerBoard
    from services.trainer.lease import LeaseFence

    stopping, clocks, bus = threading.Event(), Clocks(), RedisBus(url, RUN, lease_s=LEASE_S)
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    with LeaseKeeper(bus, lease_s=LEASE_S) as keeper:
        threads = []
        for name in names:
            fence = LeaseFence(bus, name, "trainer", ttl_s=LEASE_S)
            made: Any = ReadingTrainer(run_dir, name, step_s, clocks)
            consumer = Consumer(bus, made, fence, keeper, TrainerBoard(), student=name, name="t0", lease_s=LEASE_S)
            threads.append(threading.Thread(target=consumer.run, args=(stopping, 0)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    clocks.write(report)
    return 0


def end_with_any_thread() -> None:
    """A thread that fails ends its process: the others would go on without it, and whoever measures would wait."""

    def end(failed: threading.ExceptHookArgs) -> None:
        threading.__excepthook__(failed)
        sys.stderr.flush()
        os._exit(1)

    threading.excepthook = end


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("broker", "students", "trainers"))
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--url", default="")
    parser.add_argument("--students", nargs="+", default=())
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--step-s", type=float, default=0.0)
    parser.add_argument("--nice", type=int, default=0)
    given = parser.parse_args()
    os.nice(given.nice)
    end_with_any_thread()
    report = given.run_dir / f"{given.part}.clocks.json"
    if given.part == "broker":
        return broker(report)
    if given.part == "students":
        return students(given.run_dir, given.url, given.students[0], given.first, given.count, given.step_s)
    return trainers(given.run_dir, given.url, given.students, given.step_s, report)


if __name__ == "__main__":
    from shared.parents import run_service

    run_service(main)
