"""A trainer of two ranks as a service: it looks like one, and comes back from whatever happens to either rank.

Its ranks are forked, but for those of one that loses its lease, which are programs of their own.
"""

import json
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import httpx2
import pytest
import redis

from services.trainer.checkpoint import CheckpointManifest
from services.trainer.ranks.group import RankLostError
from shared.bus.keys import BROKER, RESULTS, TRAINER, train, trainer_lease
from shared.bus.redis import RedisBus
from shared.contracts.batches import BatchSealed
from shared.contracts.run import Status
from shared.obs.faults import ALLOWED, FAULT, MARKS, RANK_POINTS
from tests.fakes.deployment import CONTEXT, STEPS, ScriptedDeployment, assert_applied_once, assert_nothing_left
from tests.fakes.forked import Forked, fork, running
from tests.fakes.service_process import start_service
from tests.fakes.valkey import ValkeyServer
from tests.fakes.waiting import WAIT_S, wait_until
from tests.integration.test_trainer_service import Answers, prepared
from tests.unit.modeling.tiny_model import write_tiny_model
from tests.unit.trainer.ground import RUN, STUDENT, seal_steps

pytestmark = pytest.mark.timeout(400)


QUEUE = train(STUDENT)
FULL = ("trainer.ranks=2", "run.weights=full", "run.schedule=sequential")


class Trainer:
    """`python -m services.trainer` on one run directory, started as often as wanted."""

    def __init__(self, run_dir: Path, redis_url: str, python: Path) -> None:
        """python: of its ranks."""
        self.run_dir = run_dir
        self.redis_url = redis_url
        self._python = python
        self.process: Forked | None = None
        self.url = ""

    def start(self, **environment: str) -> Forked:
        self.process, self.url = start_service(
            "trainer",
            run=RUN,
            run_dir=self.run_dir,
            redis_url=self.redis_url,
            OPCOD_STUDENT=STUDENT,
            OMP_NUM_THREADS="1",
            deadline_s=WAIT_S,
            python=self._python,
            **environment,
        )
        return self.process

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(timeout=WAIT_S)

    def checksums(self, steps: int) -> list[str]:
        manifests = [
            self.run_dir / "weights" / STUDENT / f"v{step:06d}" / "manifest.json" for step in range(1, steps + 1)
        ]
        return [str(json.loads(each.read_bytes())["checksum"]) for each in manifests]


@pytest.fixture
def trainer_in(server: ValkeyServer, tmp_path: Path, tiny_dir: Path) -> Iterator[Callable[[str, Path], Trainer]]:
    """In a directory of this name, with ranks that are begun by this Python."""
    started: list[Trainer] = []

    def make(name: str, python: Path) -> Trainer:
        with redis.Redis.from_url(server.connection_url) as client:
            client.flushall()
        run_dir = prepared(tmp_path / name, tiny_dir, *FULL)
        started.append(Trainer(run_dir, server.connection_url, python))
        return started[-1]

    yield make
    for each in started:
        each.stop()


def send(bus: RedisBus, batches: Sequence[BatchSealed]) -> Answers:
    bus.create_queue(QUEUE, TRAINER)
    bus.create_queue(RESULTS, BROKER)
    for sealed in batches:
        bus.publish(QUEUE, sealed)
    return Answers(bus)


def ranks_of(process: Forked) -> list[int]:
    """Process ids of the ranks of the one trainer that runs."""
    return [pid for pid, command in running().items() if command == "services.trainer" and pid != process.pid]


def test_f3_f4_ranks_killed_in_a_step_apply_it_once_with_the_same_weights(
    trainer_in: Callable[[str, Path], Trainer], bus: RedisBus, tiny_dir: Path, programs: Path
) -> None:
    """Rank 1 in the middle of a step and with its shard half announced, rank 0 with its checkpoint just written."""
    python = programs / "python"
    quiet = trainer_in("quiet", python)
    process = quiet.start()
    send(bus, seal_steps(quiet.run_dir, tiny_dir, 3)).read_until(3, WAIT_S)
    assert len(ranks_of(process)) == 2
    assert httpx2.get(f"{quiet.url}/readyz", timeout=10, trust_env=False).status_code == 200
    wait_until(lambda: any(beat.version == "a@v3" for beat in bus.heartbeats()), "the heartbeat")
    # Asked to end, all end, and the lease is given back.
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=WAIT_S) == 0
    wait_until(lambda: ranks_of(process) == [], "the end of its ranks")
    assert bus.acquire_lease(trainer_lease(STUDENT), "next", ttl_s=1.0) == 2

    hurt = trainer_in("hurt", python)
    faults = ",".join(f"{point}:kill" for point in (*RANK_POINTS, "trainer.after-checkpoint"))
    answers = send(bus, seal_steps(hurt.run_dir, tiny_dir, 3))
    codes = []
    for _ in range(3):
        codes.append(hurt.start(**{ALLOWED: "1", FAULT: faults}).wait(timeout=WAIT_S))
    # Of the rank that was killed, or of rank 0 that missed it where both were seen to have ended at once.
    assert set(codes) <= {128 + signal.SIGKILL, RankLostError.exit_code}
    hurt.start(**{ALLOWED: "1", FAULT: faults})
    answers.read_until(3, WAIT_S)
    assert {path.name for path in (hurt.run_dir / MARKS).iterdir()} == {
        f"{point}-{STUDENT}" for point in (*RANK_POINTS, "trainer.after-checkpoint")
    }
    assert hurt.checksums(3) == quiet.checksums(3)
    assert sorted(answers.done) == [1, 2, 3]
    wait_until(lambda: bus.queue_depth(QUEUE, TRAINER) == (0, 0), "every batch acknowledged")


def test_a_trainer_that_lost_its_lease_ends_with_75_whatever_its_ranks_end_with(
    trainer_in: Callable[[str, Path], Trainer], bus: RedisBus, tiny_dir: Path
) -> None:
    trainer = trainer_in("fenced", Path(sys.executable))
    process = trainer.start()
    send(bus, seal_steps(trainer.run_dir, tiny_dir, 1)).read_until(1, WAIT_S)
    with redis.Redis.from_url(trainer.redis_url) as client:
        client.flushall()
    bus.acquire_lease(trainer_lease(STUDENT), "another", ttl_s=WAIT_S)
    assert process.wait(timeout=WAIT_S) == 75
    assert "held" in (trainer.run_dir / "trainer.log").read_text()


@pytest.mark.slow
def test_a_whole_run_of_trainers_of_two_ranks_ends_done(tmp_path: Path, programs: Path) -> None:
    model = write_tiny_model(tmp_path / "tiny", context=CONTEXT)
    deployment = ScriptedDeployment(
        tmp_path, "ranks", model, *FULL, start_process=partial(fork, python=str(programs / "python"))
    )
    try:
        state = deployment.finish()
        assert state.status is Status.DONE, f"{state.status}, paused: {state.paused}, failed: {state.failed}"
        assert state.steps == {"a": STEPS, "b": STEPS}
        assert deployment.launcher.restarts == {}
        assert_nothing_left(deployment.bus)
    finally:
        deployment.close()
    for student in ("a", "b"):
        assert_applied_once(deployment.paths.run_dir, student, STEPS)
        newest = deployment.paths.run_dir / "checkpoints" / student / f"k{STEPS:06d}" / "manifest.json"
        assert CheckpointManifest.model_validate_json(newest.read_bytes()).shards == 2
    # What either rank saw of the loss.
    assert len(list((deployment.paths.run_dir / "traces").rglob("*.json"))) == 2 * STEPS
