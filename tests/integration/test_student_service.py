"""The student as a process of its own on a real server: jobs, people, swaps, kills and a clean stop."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from services.student.app import build_engine
from services.student.work.generation import requests_for
from shared.bus.keys import STUDENTS, jobs
from shared.contracts.jobs import Job, JobDone, JobKind, JobStarted
from shared.contracts.weights import VersionLoaded, VersionRefused
from tests.fakes.student import RUN, make_job, publish_version
from tests.fakes.student_process import Student, question
from tests.fakes.valkey import ValkeyServer
from tests.fakes.waiting import WAIT_S, wait_until

ROLLOUT, FEEDBACK = JobKind.ROLLOUT, JobKind.FEEDBACK


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


@pytest.mark.parametrize("lease_s", [60.0])
def test_killed_while_generating_it_takes_its_jobs_again_and_draws_the_same_samples(
    student: Student, tmp_path: Path, lease_s: float
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
    assert time.monotonic() - ready < lease_s / 2, "its own jobs need not wait for their leases"
    assert done.keys() == {feedback.id, rollout.id}
    assert starts(student, feedback.id) == [1, 2]
    for job in (feedback, rollout):
        samples = student.broker.output(done[job.id]).prompts[0].samples
        assert [sample.text for sample in samples] == undisturbed(student, job)
    assert (student.pending(FEEDBACK), student.pending(ROLLOUT)) == (0, 0)


def test_f12_one_that_stood_still_past_its_lease_comes_back_too_late(student: Student, tmp_path: Path) -> None:
    student.start(latency_s=3.0)
    assert student.process is not None
    student.broker.issue(ROLLOUT, 1)
    wait_until(lambda: student.pending(ROLLOUT) == 1, "the job to be taken")
    student.process.send_signal(signal.SIGSTOP)
    peer = Student(tmp_path, student.redis_url, replica="1")
    peer.start()
    try:
        (done,) = student.done(1)
        assert done.replica == "1"
        student.process.send_signal(signal.SIGCONT)
        late = 'opcod_student_jobs_total{kind="rollout",outcome="late"} 1.0'
        lost = 'opcod_student_jobs_total{kind="rollout",outcome="lost"} 1.0'
        wait_until(lambda: any(text in student.get("/metrics").text for text in (late, lost)), "the late result")
        assert student.done(1) == [done]
    finally:
        peer.end(signal.SIGTERM)
        peer.bus.close()


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
        assert time.monotonic() - started < 30
        student.broker.issue(ROLLOUT, 1)
        assert [done.outcome for done in student.done(1)] == ["ok"]
    finally:
        student.end(signal.SIGKILL)
        student.bus.close()
        server.stop()
