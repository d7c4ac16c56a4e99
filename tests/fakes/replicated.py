"""A broker's run whose students have replicas: their real workers, each in a thread, on engines that hold one version
at a time."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from services.student.app import build_worker
from services.student.board import Board, student_heartbeat
from services.student.config import INTERACTIVE_BOUND, student_config
from services.student.engines.port import Generation, GenerationRequest
from services.student.engines.scripted import Script, ScriptedEngine
from services.student.engines.vllm.resident import Residency
from services.student.http.interactive import InteractiveQueue
from services.student.work.calls import Running
from shared.bus.leases import LeaseKeeper
from shared.clock import SystemClock
from shared.config.environment import ServiceEnvironment
from shared.config.loading import to_toml
from shared.contracts.batches import BatchSealed
from shared.contracts.run import RunState, Status
from shared.errors import UnavailableError
from shared.files.store import LocalStore
from shared.modeling.checksums import file_checksum
from tests.fakes.broker import RUN, Between, BrokerBench, FakeTrainer
from tests.fakes.bus.memory import MemoryBus
from tests.fakes.bus.memory_server import MemoryServer
from tests.fakes.student import APART, prepare_models, tensor_file, write_version
from tests.fakes.waiting import WAIT_S, wait_until

BEAT_S = 0.05
SLOTS = 16
EXCHANGE_S = 0.3
"""Longer than a turn, as of a real engine: nobody has jobs of a version before all know that it is served."""

SETTINGS = (
    *APART,
    f"bus.heartbeat_s={BEAT_S}",
    "feedback.tutor_timeout_s=600",
    "rollout.max_tokens=200",
    "feedback.max_tokens=200",
    "evaluation.max_tokens=200",
)


class OneSetEngine(ScriptedEngine):
    """Scripted answers of one version at a time, as a vLLM server with full weights gives them.

    exchanges: versions in the order in which each became resident. answered: how many calls.
    """

    continuous = True

    def __init__(self, script: Script) -> None:
        super().__init__(script, SLOTS)
        self.exchanges: list[str] = []
        self.answered = 0
        self._residency: Residency[str] = Residency(self._exchange)

    def load(self, version: str, directory: Path | None, checksum: str | None = None) -> str:
        new = version not in self.versions()
        found = super().load(version, directory, checksum)
        if new:
            with self._resident(version):
                return found
        return found

    def generate(
        self, requests: Sequence[GenerationRequest], cancelled: threading.Event | None = None
    ) -> list[Generation]:
        (version,) = {request.version for request in requests}
        with self._resident(version):
            self.answered += 1
            return super().generate(requests, cancelled)

    def _exchange(self, version: str) -> None:
        time.sleep(EXCHANGE_S)
        self.exchanges.append(version)

    @contextmanager
    def _resident(self, version: str) -> Iterator[None]:
        self._residency.enter(version, lambda: None)
        try:
            yield
        finally:
            self._residency.leave()


class CutBus(MemoryBus):
    """`cut` is what a killed process is to all others: nothing comes of it any more."""

    cut = False

    @contextmanager
    def _open(self, operation: str, *, wakes: bool = False) -> Iterator[MemoryServer]:
        if self.cut:
            raise UnavailableError(f"cut off: no answer to {operation}")
        with super()._open(operation, wakes=wakes) as server:
            yield server


class Replica:
    """One replica of a student, at work from the start."""

    def __init__(self, bench: BrokerBench, student: str, name: str, *, lease_s: float, beat_ttl_s: float) -> None:
        environment = ServiceEnvironment(
            run=RUN,
            run_dir=bench.run_dir,
            cache_dir=bench.run_dir,
            redis_url="redis://none",
            student=student,
            replica=name,
        )
        self._config = student_config(environment)
        self._clock = SystemClock()
        self._bus = CutBus(bench.server, lease_s=lease_s)
        self._beat_ttl_s = beat_ttl_s
        self._leases = LeaseKeeper(self._bus, lease_s=lease_s)
        self._board = Board(self._clock)
        self._stopping = threading.Event()
        admitted = threading.Event()
        admitted.set()
        domains = dict.fromkeys(bench.settings.domains, 0.5)
        self.engine = OneSetEngine(Script(problems=tuple(bench.problems.all_problems()), accuracy=domains))
        worker = build_worker(
            self._config,
            engine=self.engine,
            bus=self._bus,
            leases=self._leases,
            board=self._board,
            interactive=InteractiveQueue(bound=INTERACTIVE_BOUND),
            running=Running(self._clock),
            clock=self._clock,
            stopping=self._stopping,
            admitted=admitted,
        )
        self._threads = [threading.Thread(target=target) for target in (worker.run, self._beat)]
        for thread in self._threads:
            thread.start()

    @property
    def ready(self) -> bool:
        return self._board.not_ready() is None

    def kill(self) -> None:
        self._bus.cut = True

    def close(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(WAIT_S)
        self._leases.close()

    def _beat(self) -> None:
        while not self._stopping.wait(BEAT_S) and not self._bus.cut:
            beat = student_heartbeat(self._config, self._board, self._clock, self._stopping)
            self._bus.beat(beat, ttl_s=self._beat_ttl_s)


class PublishingTrainer(FakeTrainer):
    """Writes a version for each batch."""

    def __init__(self, bench: BrokerBench, student: str) -> None:
        super().__init__(student, bench.workers, LocalStore(bench.run_dir))
        self._weights = bench.run_dir / "weights" / student

    def _check(self, sealed: BatchSealed) -> None:
        super()._check(sealed)
        if sealed.step in self.applied:
            return
        data, scratch = tensor_file(sealed.step), self._weights.with_name(f"{self._name}.safetensors")
        scratch.parent.mkdir(exist_ok=True)
        scratch.write_bytes(data)
        write_version(
            self._weights,
            sealed.step,
            {"model.safetensors": data, "config.json": b"{}"},
            student=self._name,
            version=f"{self._name}@v{sealed.step}",
            parent=f"{self._name}@v{sealed.step - 1}",
            kind="full",
            checksum=file_checksum(scratch),
        )


class ReplicatedRun:
    """Each student has the replicas that are named, up and known to one another before the run begins."""

    def __init__(
        self, run_dir: Path, replicas: Sequence[str], *overrides: str, lease_s: float = 60.0, beat_ttl_s: float = 60.0
    ) -> None:
        prepare_models(run_dir, "a", "b")
        self.bench = BrokerBench(run_dir, overrides=[*SETTINGS, *overrides])
        settings = self.bench.settings
        (run_dir / "config.toml").write_text(to_toml(settings))
        self.bench.students.clear()
        self.bench.trainers = {name: PublishingTrainer(self.bench, name) for name in settings.names}
        self.replicas: dict[tuple[str, str], Replica] = {}
        self._lease_s, self._beat_ttl_s = lease_s, beat_ttl_s
        self.join(*replicas)

    def join(self, *names: str) -> None:
        """One more replica of each student by each name; returns when all are up."""
        for student in self.bench.settings.names:
            for name in names:
                started = Replica(self.bench, student, name, lease_s=self._lease_s, beat_ttl_s=self._beat_ttl_s)
                self.replicas[student, name] = started
        wait_until(lambda: all(self._is_known(*key) for key in self.replicas), "the replicas", pause_s=BEAT_S)

    def until(self, reached: Callable[[RunState], bool]) -> RunState:
        """The broker's loop, and the trainers between its turns."""
        seen: list[bool] = []

        def end() -> bool:
            self.bench.work()
            seen.append(True)
            assert len(seen) < WAIT_S / BEAT_S, f"not reached: {self.bench.state.model_dump_json(indent=1)}"
            return reached(self.bench.state)

        self.bench.runner.loop(Between(end), threading.Event())
        return self.bench.state

    def finish(self) -> RunState:
        return self.until(lambda state: state.status is Status.DONE)

    def close(self) -> None:
        for replica in self.replicas.values():
            replica.kill()
        for replica in self.replicas.values():
            replica.close()

    def _is_known(self, student: str, name: str) -> bool:
        beats = self.bench.workers.heartbeats()
        known = {(beat.service, beat.replica) for beat in beats if beat.state == "ready"}
        return self.replicas[student, name].ready and (f"student-{student}", name) in known
