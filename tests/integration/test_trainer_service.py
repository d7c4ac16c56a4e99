"""The trainer as a process of its own on a real server: killed at many points, restarted, paused, replaced."""

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
import redis

from shared.bus.keys import BROKER, RESULTS, TRAINER, train
from shared.bus.redis import RedisBus
from shared.config.loading import load_settings, to_toml
from shared.contracts.batches import BatchSealed
from shared.contracts.weights import StepDone
from tests.fakes.forked import Forked
from tests.fakes.service_process import start_service
from tests.fakes.valkey import ValkeyServer
from tests.fakes.waiting import WAIT_S, wait_until
from tests.unit.modeling.tiny_model import write_tiny_model
from tests.unit.trainer.ground import BASE_SHA256, RUN, STUDENT, seal_steps

pytest.importorskip("torch")

STEPS = 4
LEASE_S = 1.0
QUEUE = train(STUDENT)
SETTINGS = (
    f"bus.lease_s={LEASE_S}",
    "bus.heartbeat_s=0.2",
    "bus.deadline_s=5",
    "lora.first_layer=1",
    "lora.rank=4",
    "optimizer.mini_batches=2",
    "students.a.dtype=float32",
    "students.a.chat_template=none",
    "students.b.chat_template=none",
)


class Trainer:
    """`python -m services.trainer` on one run directory, started as often as wanted."""

    def __init__(self, run_dir: Path, redis_url: str) -> None:
        self.run_dir = run_dir
        self.redis_url = redis_url
        self.processes: list[Forked] = []
        self.url = ""

    def start(self, replica: str = "0") -> Forked:
        process, self.url = start_service(
            "trainer",
            run=RUN,
            run_dir=self.run_dir,
            redis_url=self.redis_url,
            replica=replica,
            OPCOD_STUDENT=STUDENT,
            OMP_NUM_THREADS="1",
        )
        self.processes.append(process)
        return process

    def ready(self) -> bool:
        return httpx2.get(f"{self.url}/readyz", timeout=10, trust_env=False).status_code == 200

    def checksum(self, step: int) -> str:
        manifest = self.run_dir / "weights" / STUDENT / f"v{step:06d}" / "manifest.json"
        return str(json.loads(manifest.read_bytes())["checksum"])


class Answers:
    """What the broker would read."""

    def __init__(self, bus: RedisBus) -> None:
        self.bus = bus
        self.done: dict[int, StepDone] = {}
        self.seen = 0

    def read_until(self, step: int, deadline_s: float = WAIT_S) -> None:
        wait_until(lambda: self._read(step), f"the report of step {step}", deadline_s=deadline_s)

    def _read(self, step: int) -> bool:
        for delivery in self.bus.take([(RESULTS, BROKER)], "broker", limit=16, block_s=0.1):
            answer = delivery.message
            assert isinstance(answer, StepDone)
            assert self.done.setdefault(answer.step, answer) == answer, "a repeated report differs"
            self.seen += 1
            self.bus.complete(delivery)
        return step in self.done


@pytest.fixture(scope="module")
def tiny_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ValkeyServer]:
    folder = tmp_path / "valkey"
    folder.mkdir()
    running = ValkeyServer(data_dir=str(folder), persist=True, appendonly="yes", appendfsync="always")
    running.start()
    yield running
    if running.is_running():
        running.stop()


@pytest.fixture
def bus(server: ValkeyServer) -> Iterator[RedisBus]:
    opened = RedisBus(server.connection_url, RUN, lease_s=LEASE_S, deadline_s=10.0)
    opened.create_queue(QUEUE, TRAINER)
    opened.create_queue(RESULTS, BROKER)
    yield opened
    opened.close()


@pytest.fixture
def trainer(server: ValkeyServer, tmp_path: Path, tiny_dir: Path) -> Iterator[Trainer]:
    run_dir = prepared(tmp_path / "run", tiny_dir)
    service = Trainer(run_dir, server.connection_url)
    yield service
    for process in service.processes:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait(timeout=WAIT_S)


def prepared(run_dir: Path, tiny_dir: Path, *overrides: str) -> Path:
    (run_dir / "models").mkdir(parents=True)
    settings = load_settings(preset="smoke", overrides=[*SETTINGS, *overrides], environ={})
    (run_dir / "config.toml").write_text(to_toml(settings))
    model = {"path": str(tiny_dir), "sha256": BASE_SHA256}
    (run_dir / "models" / f"{STUDENT}.json").write_text(json.dumps(model))
    return run_dir


def train_all(trainer: Trainer, bus: RedisBus, batches: list[BatchSealed]) -> Answers:
    answers = Answers(bus)
    trainer.start()
    for sealed in batches:
        bus.publish(QUEUE, sealed)
    answers.read_until(len(batches))
    return answers


def test_steps_are_applied_published_and_reported(trainer: Trainer, bus: RedisBus, tiny_dir: Path) -> None:
    answers = train_all(trainer, bus, seal_steps(trainer.run_dir, tiny_dir, 2))
    wait_until(trainer.ready, "readiness")
    assert answers.done[2].checksum == trainer.checksum(2)
    wait_until(lambda: any(beat.version == "a@v2" for beat in bus.heartbeats()), "the heartbeat")
    metrics = httpx2.get(f"{trainer.url}/metrics", timeout=10, trust_env=False).text
    assert "opcod_trainer_step 2.0" in metrics
    trainer.processes[0].send_signal(signal.SIGTERM)
    assert trainer.processes[0].wait(timeout=WAIT_S) == 0
    assert bus.acquire_lease(STUDENT, "next", ttl_s=1.0) == 2  # given back, not run out


def test_killed_again_and_again_it_ends_with_the_same_weights(
    trainer: Trainer, bus: RedisBus, tiny_dir: Path, tmp_path: Path
) -> None:
    """Killed when a batch is taken, when its checkpoint appears, and when its version appears."""
    batches = seal_steps(trainer.run_dir, tiny_dir, STEPS)
    points: list[tuple[str, Callable[[], bool]]] = [
        ("the first batch is taken", lambda: bus.queue_depth(QUEUE, TRAINER)[1] > 0),
        ("checkpoint 1", lambda: (trainer.run_dir / "checkpoints" / STUDENT / "k000001").exists()),
        ("version 2", lambda: (trainer.run_dir / "weights" / STUDENT / "v000002").exists()),
        ("the temporary files of step 3", lambda: has_temporary(trainer.run_dir, 3)),
    ]
    for sealed in batches:
        bus.publish(QUEUE, sealed)
    for what, reached in points:
        process = trainer.start()
        wait_until(reached, what, pause_s=0.0005)
        process.kill()
        process.wait(timeout=WAIT_S)
    trainer.start()
    answers = Answers(bus)
    answers.read_until(STEPS)
    assert sorted(answers.done) == [1, 2, 3, 4]
    wait_until(lambda: bus.queue_depth(QUEUE, TRAINER) == (0, 0), "every batch acknowledged")
    assert not bus.dead_letters()

    quiet = Trainer(prepared(tmp_path / "quiet", tiny_dir), trainer.redis_url)
    stop(trainer)
    seal_steps(quiet.run_dir, tiny_dir, STEPS)
    try:
        replay(quiet, bus, batches)
        for step in range(1, STEPS + 1):
            assert quiet.checksum(step) == trainer.checksum(step) == answers.done[step].checksum
    finally:
        stop(quiet)


def test_a_paused_trainer_that_comes_back_late_ends_with_75(trainer: Trainer, bus: RedisBus, tiny_dir: Path) -> None:
    first, second = seal_steps(trainer.run_dir, tiny_dir, 2)
    answers = train_all(trainer, bus, [first])
    paused = trainer.processes[0]
    paused.send_signal(signal.SIGSTOP)
    trainer.start(replica="1")
    wait_until(trainer.ready, "the second trainer")
    bus.publish(QUEUE, second)
    answers.read_until(2)
    before = trainer.checksum(2)
    paused.send_signal(signal.SIGCONT)
    assert paused.wait(timeout=WAIT_S) == 75
    assert trainer.processes[1].poll() is None
    assert trainer.checksum(2) == before


def test_a_server_that_lost_everything_gets_the_version_back(trainer: Trainer, bus: RedisBus, tiny_dir: Path) -> None:
    answers = train_all(trainer, bus, seal_steps(trainer.run_dir, tiny_dir, 1))
    stop(trainer)
    flush(trainer.redis_url)
    trainer.start()
    again = Answers(bus)
    again.read_until(1)
    assert again.done[1] == answers.done[1]


def has_temporary(run_dir: Path, step: int) -> bool:
    """Whether a checkpoint is being written after step - 1 was, or is there already."""
    folder = run_dir / "checkpoints" / STUDENT
    if (folder / f"k{step:06d}").exists():
        return True
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    return f"k{step - 1:06d}" in names and any(not name.startswith("k") for name in names)


def replay(quiet: Trainer, bus: RedisBus, batches: list[BatchSealed]) -> None:
    """The same batches through an undisturbed trainer, on an emptied server."""
    flush(quiet.redis_url)
    bus.create_queue(QUEUE, TRAINER)
    bus.create_queue(RESULTS, BROKER)
    train_all(quiet, bus, batches)


def flush(url: str) -> None:
    with redis.Redis.from_url(url) as client:
        client.flushall()


def stop(trainer: Trainer) -> None:
    for process in trainer.processes:
        if process.poll() is None:
            process.terminate()
            process.wait(timeout=WAIT_S)
