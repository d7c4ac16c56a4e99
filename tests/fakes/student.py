"""Student a of a run in one process: its worker on a bus in memory and a fake engine, and a broker's side of it."""

import dataclasses
import hashlib
import json
import struct
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from services.student.app import build_worker
from services.student.board import Board
from services.student.config import INTERACTIVE_BOUND, StudentConfig, student_config
from services.student.engines.port import Engine
from services.student.http.interactive import InteractiveQueue
from services.student.work.calls import Running
from services.student.work.resting import Rest
from shared.bus.keys import BROKER, RESULTS, eval_payloads, group_of, input_field, jobs, step_payloads
from shared.bus.leases import LeaseKeeper
from shared.bus.payloads import pack, unpack
from shared.bus.port import Bus, Commit
from shared.bus.turns import CardTurn
from shared.clock import Clock, SystemClock
from shared.config.environment import ServiceEnvironment
from shared.config.loading import load_settings, to_toml
from shared.contracts.envelope import Message
from shared.contracts.ids import version_folder
from shared.contracts.jobs import Job, JobDone, JobInput, JobKind, JobOutput, PayloadRef, Prompt
from shared.contracts.messages import ChatMessage, Sampling
from shared.contracts.models import PreparedModel, model_file
from shared.contracts.weights import FileEntry, ServeSet, WeightsManifest
from shared.files.store import LocalStore
from shared.modeling.checksums import file_checksum
from tests.fakes.access import one_key
from tests.fakes.bus.memory import MemoryBus
from tests.fakes.bus.memory_server import MemoryServer
from tests.fakes.engine import FakeEngine

RUN = "test"
BASE_SHA256 = "c" * 64
APART = (
    "run.weights=full",
    *(f"students.{name}.{setting}" for name in "ab" for setting in ("engine=vllm", "replicas=2")),
)
"""Settings with which replicas keep a version each."""
STUDENT_SETTINGS = ("students.a.engine=scripted", "students.b.engine=scripted", "students.a.slots=8")


class HandClock:
    """A clock that is moved by hand. set_by_s: how far somebody has set its wall time."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.set_by_s = 0.0

    def wall_s(self) -> float:
        return self.now_s + self.set_by_s

    def monotonic_s(self) -> float:
        return self.now_s


def config_in(run_dir: Path, *overrides: str, **environment: object) -> StudentConfig:
    """Settings of the smoke preset with scripted students, written to `run_dir` and read back as a process does."""
    run_dir.mkdir(parents=True, exist_ok=True)
    settings = load_settings(preset="smoke", overrides=[*STUDENT_SETTINGS, *overrides], environ={})
    (run_dir / "config.toml").write_text(to_toml(settings))
    fields = {"run": RUN, "run_dir": run_dir, "cache_dir": run_dir, "redis_url": "redis://none", "student": "a"}
    return student_config(ServiceEnvironment(**(fields | environment)))  # type: ignore[arg-type]


def prepare_models(run_dir: Path, *students: str) -> None:
    """As `opcod prepare` leaves it, for fakes that load nothing. sha256: what versions here name as their base."""
    for student in students:
        file = model_file(run_dir, student)
        file.parent.mkdir(exist_ok=True)
        file.write_text(PreparedModel(path=run_dir, sha256=BASE_SHA256).model_dump_json())


def make_job(
    kind: JobKind, number: int, *, version: str = "a@v0", samples: int = 2, text: str = "2 + 2?"
) -> tuple[Job, JobInput]:
    """A job of `samples` sequences for student a and its input; not published."""
    prompts = JobInput(prompts=(Prompt(messages=(ChatMessage(role="user", content=text),), samples=samples),))
    id_ = f"r1.a.s{number}.p.{kind.value}"
    step = 0 if kind is JobKind.EVAL else number
    key = eval_payloads("a", 1, "test") if kind is JobKind.EVAL else step_payloads("a", step)
    ref, _ = pack(prompts, key, input_field(id_))
    sampling = Sampling(temperature=1, top_p=1, max_tokens=4)
    job = Job(
        id=id_,
        kind=kind,
        student="a",
        tutee="a",
        version=version,
        round=1,
        step=step,
        seed=number,
        sequences=samples,
        sampling=sampling,
        input=ref,
    )
    return job, prompts


class Broker:
    """The other side: issues jobs, serves versions, reads results."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self._revision = 0
        self._fence = 0
        for kind in JobKind:
            bus.create_queue(jobs("a", kind), group_of(jobs("a", kind)))
        bus.create_queue(RESULTS, BROKER)

    def issue(
        self, kind: JobKind, number: int, *, version: str = "a@v0", samples: int = 2, text: str = "2 + 2?"
    ) -> Job:
        job, prompts = make_job(kind, number, version=version, samples=samples, text=text)
        self.publish(job, prompts)
        return job

    def publish(self, job: Job, prompts: JobInput) -> None:
        packed = pack(prompts, job.input.key, job.input.field)
        self._commit(payloads=[packed], publish=[(jobs("a", job.kind), job)])

    def serve(self, live: str, *others: str) -> None:
        value = ServeSet(live=live, versions=(live, *others), revision=self._revision).model_dump_json()
        self._commit(serve=[("a", value)])

    def _commit(
        self,
        *,
        publish: Sequence[tuple[str, Message]] = (),
        payloads: Sequence[tuple[PayloadRef, bytes]] = (),
        serve: Sequence[tuple[str, str]] = (),
    ) -> None:
        if not self._fence:
            token = self.bus.acquire_lease("broker.leader", "test", ttl_s=600)
            assert token is not None
            self._fence = token
        self._revision += 1
        state = f"state {self._revision}"
        self.bus.commit(Commit(self._fence, self._revision, state, publish, payloads, serve=serve))

    def results(self, block_s: float = 0.0) -> list[Message]:
        taken = self.bus.take([(RESULTS, BROKER)], "test", limit=100, block_s=block_s)
        for delivery in taken:
            self.bus.complete(delivery)
        return [delivery.message for delivery in taken]

    def output(self, done: JobDone) -> JobOutput:
        assert done.output is not None
        return unpack(done.output, self.bus.get_payload(done.output), JobOutput)


class StudentBench:
    """Worker, engine and broker of one student on one memory server; `turn` is one turn of its loop."""

    def __init__(
        self,
        run_dir: Path,
        *overrides: str,
        slots: int = 8,
        lease_s: float = 60.0,
        replica: str = "0",
        continuous: bool = False,
        server: MemoryServer | None = None,
        shares_card: bool = False,
        clock: Clock | None = None,
    ) -> None:
        """shares_card: the engine sleeps out of its turn, and begins awake in one."""
        self.config = config_in(run_dir, *overrides, replica=replica)
        self.clock = clock or SystemClock()
        self.server = server or MemoryServer()
        self.lease_s = lease_s
        self.bus = MemoryBus(self.server, lease_s=lease_s)
        self.broker = Broker(MemoryBus(self.server, lease_s=lease_s))
        self.engine = FakeEngine(slots)
        self.engine.continuous = continuous
        self.stopping, self.admitted = threading.Event(), threading.Event()
        self.admitted.set()
        self.leases = LeaseKeeper(self.bus, lease_s=lease_s, waits=not shares_card)
        self.card: CardTurn | None = None
        if shares_card:
            self.card = CardTurn(self.bus, f"student-a-{replica}", self.clock, ttl_s=lease_s)
            assert self.card.ask()
        self._build()

    def _build(self, engine: Engine | None = None) -> None:
        self.board = Board(self.clock)
        self.interactive = InteractiveQueue(bound=INTERACTIVE_BOUND)
        self.running = Running(self.clock, drain_s=0.2)
        self.worker = build_worker(
            self.config,
            engine=engine or self.engine,
            bus=self.bus,
            leases=self.leases,
            board=self.board,
            interactive=self.interactive,
            running=self.running,
            clock=self.clock,
            stopping=self.stopping,
            admitted=self.admitted,
            rest=None if self.card is None else Rest(self.engine, self.card, self.clock, lambda: None),
        )

    def use(self, engine: Engine) -> None:
        """In place of the fake one, from the start."""
        self._build(engine)

    def restart(self) -> None:
        """As after SIGKILL: a new process with the same consumer name, and nothing in its hands."""
        self.leases.close()
        self.bus = MemoryBus(self.server, lease_s=self.lease_s)
        self.leases = LeaseKeeper(self.bus, lease_s=self.lease_s, waits=self.card is None)
        self.engine = FakeEngine(self.engine.slots)
        self._build()

    def turn(self, times: int = 1) -> list[Message]:
        """Turns of the loop, then what the broker got."""
        for _ in range(times):
            self.worker.turn()
        return self.broker.results()

    def done(self, times: int = 1) -> list[JobDone]:
        return [message for message in self.turn(times) if isinstance(message, JobDone)]

    def close(self) -> None:
        self.leases.close()


def publish_version(
    run_dir: Path, steps: int, content: dict[str, bytes] | None = None, **changes: object
) -> WeightsManifest:
    """Write a small adapter, or `content`, as `a@v<steps>`; `changes` are put into its manifest."""
    weights = tensor_file(steps)
    scratch = run_dir / "scratch.safetensors"
    scratch.parent.mkdir(parents=True, exist_ok=True)
    scratch.write_bytes(weights)
    checksum = file_checksum(scratch)
    scratch.unlink()
    files = content or {"adapter_model.safetensors": weights, "adapter_config.json": b"{}"}
    return write_version(run_dir / "weights" / "a", steps, files, **{"checksum": checksum, **changes})


def write_version(weights: Path, steps: int, content: Mapping[str, bytes], **given: object) -> WeightsManifest:
    """Write `content` as `a@v<steps>` of `weights`; `given` are fields of its manifest, the checksum at least."""
    written: list[WeightsManifest] = []

    def manifest(files: tuple[FileEntry, ...]) -> bytes:
        fields: dict[str, object] = {
            "run": RUN,
            "student": "a",
            "version": f"a@v{steps}",
            "parent": f"a@v{steps - 1}",
            "kind": "lora",
            "step": steps,
            "batch_sha256": None,
            "base_model": BASE_SHA256,
            "files": files,
            "probe": (),
        }
        written.append(WeightsManifest(**(fields | given)))
        return written[0].model_dump_json().encode()

    LocalStore(weights).write_directory(version_folder(steps), content, manifest)
    return written[0]


def tensor_file(value: int) -> bytes:
    """A safetensors file with one tensor, made by hand so that no torch is needed."""
    data = hashlib.sha256(str(value).encode()).digest()
    header = json.dumps({"w": {"dtype": "F32", "shape": [8], "data_offsets": [0, len(data)]}}).encode()
    return struct.pack("<Q", len(header)) + header + data


def with_key(config: StudentConfig, key: str) -> StudentConfig:
    return dataclasses.replace(config, keys=one_key(key))
