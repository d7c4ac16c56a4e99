"""The processes that `paper_size.py` starts: `python benchmarks/paper_size_parts.py broker | students | trainers …`

- broker: `services.broker` as it is, with clocks around each report that it handles and around its files.
- students: replicas as they are, one thread each, around an engine that waits and then gives answers of full length.
- trainers: the trainers' consumers as they are; what is simulated is the step, which reads its batch and then waits.

Each writes what its clocks say to a file when it is ended by SIGTERM.
"""

import argparse
import json
import os
import random
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

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
ROLLOUT_SHARE, ROLLOUT_SPREAD, LONGEST_ROLLOUT = 0.25, 0.5, 0.6
"""Of a step: the median time of a group's answers, the spread of its logarithm, and the longest, which a limit cuts."""

FEEDBACK_SHARE, TRAINING_SHARE = 0.05, 0.15
VOCABULARY, DRAWN = 150_000, 20_000
ASKED = "a job of a step published"
CONCEPT = "lattice"
EVALUATED_TOKENS = 64
"""Of an answer in an evaluation, which is no part of a step."""

LONGEST_QUESTION = 1000
"""Characters; what goes beyond it holds a solution or feedback."""

_ITEM = re.compile(r"item (\d+) of (\w+)")
RIGHT_AT_HOME, RIGHT_ELSEWHERE = 0.7, 0.5
TEXT = (
    "the field force charge mass energy bond orbital electron acid base rate constant velocity pressure of and with "
    "therefore because we consider each option in turn as it follows from what is given about this equation so that"
)
WORDS = TEXT.split()


Number = TypeVar("Number", int, float)


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
    Broker._run = lambda self: profile.runcall(run, self)  # type: ignore[method-assign,assignment]
    try:
        return main()
    finally:
        profile.dump_stats(path)


class PaperEngine:
    """See `services.student.engines.port.Engine`: continuous, as vLLM is. Answers have the full length that is asked
    for, but in evaluations; they are made before the wait for a simulated GPU, so that all come on time."""

    context = None
    vocabulary_size = VOCABULARY
    continuous = True
    guides = False
    rendering = None

    def __init__(self, domain: str, step_s: float, slots: int) -> None:
        self.slots = slots
        self._domain = domain
        self._step_s = step_s
        self._versions: dict[str, str] = {}
        draw = random.Random(slots)
        # Drawn once, as a GPU draws: each sample has another stretch of them.
        self._ids = draw.choices(range(VOCABULARY), k=DRAWN)
        self._logprobs = [-draw.expovariate(2.0) for _ in range(DRAWN)]

    def load(self, version: str, directory: Path | None, checksum: str | None = None) -> str:  # noqa: ARG002
        self._versions[version] = checksum or "c" * 64
        return self._versions[version]

    def unload(self, version: str) -> None:
        del self._versions[version]

    def versions(self) -> dict[str, str]:
        return dict(self._versions)

    def probe(self, _version: str) -> None:
        """Nothing can be asked of it."""

    def close(self) -> None:
        """Nothing was started."""

    def health(self) -> Any:
        from services.student.engines.port import EngineHealth, EngineState

        return EngineHealth(EngineState.READY, "simulated")

    def prompt_tokens(self, messages: Sequence[Any]) -> int:
        return sum(len(message.content) for message in messages) // 4

    def generate(self, requests: Sequence[Any], cancelled: threading.Event | None = None) -> list[Any]:
        began, asked = time.monotonic(), _asked(requests[0])
        answers = [self._answer(request, asked) for request in requests]
        share = {"rollout": ROLLOUT_SHARE, "feedback": FEEDBACK_SHARE, "revision": FEEDBACK_SHARE}.get(asked, 0.0)
        draw = random.Random(requests[0].seed)
        seconds = self._step_s * min(share * draw.lognormvariate(0.0, ROLLOUT_SPREAD), LONGEST_ROLLOUT)
        (cancelled or threading.Event()).wait(max(0.0, began + seconds - time.monotonic()))
        return answers

    def _answer(self, request: Any, asked: str) -> Any:
        from services.student.engines.port import Generation

        draw = random.Random(request.seed)
        count = (
            min(request.sampling.max_tokens, EVALUATED_TOKENS) if asked == "evaluation" else request.sampling.max_tokens
        )
        # As in English, six characters a word with its blank, and four a token; a sentence now and then.
        words = [
            f"{word}. " if at % 17 == 16 else f"{word} "
            for at, word in enumerate(draw.choices(WORDS, k=count * 2 // 3))
        ]
        text, item = "".join(words).strip(), _ITEM.search(request.messages[-1].content)
        assert item is not None, request.messages[-1].content[:200]
        if asked == "feedback":
            text = f"<concept>{CONCEPT}</concept> {text}"
        else:
            right = draw.random() < (RIGHT_AT_HOME if item[2] == self._domain else RIGHT_ELSEWHERE)
            text = f"{text}\n<answer>\n{'ABCD'[(int(item[1]) + (not right)) % 4]}\n</answer>"
        return Generation(
            text=text,
            prompt_token_ids=_part(self._ids, self.prompt_tokens(request.messages), draw),
            token_ids=_part(self._ids, count, draw),
            logprobs=_part(self._logprobs, count, draw),
            finish_reason="stop",
        )


def _part(drawn: list[Number], count: int, draw: random.Random) -> list[Number]:
    """`count` of them from somewhere on, and round."""
    first = draw.randrange(DRAWN)
    return (drawn * (2 + count // DRAWN))[first : first + count]


def _asked(request: Any) -> str:
    prompt = request.messages[-1].content
    if "<concept>term</concept>" in prompt:
        return "feedback"
    if request.sampling.temperature == 1:
        return "rollout"
    return "revision" if len(prompt) > LONGEST_QUESTION else "evaluation"


class Replicas:
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
    replicas = Replicas(run_dir, url, student, first, count, step_s)
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
    from services.trainer.consumer import Consumer, LeaseFence, TrainerBoard

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
    report = given.run_dir / f"{given.part}.clocks.json"
    if given.part == "broker":
        return broker(report)
    if given.part == "students":
        return students(given.run_dir, given.url, given.students[0], given.first, given.count, given.step_s)
    return trainers(given.run_dir, given.url, given.students, given.step_s, report)


if __name__ == "__main__":
    from shared.http.serving import run_service

    run_service(main)
