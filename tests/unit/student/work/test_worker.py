"""The engine's loop on a bus in memory: what it takes, in which order, and how every job ends exactly once.

One bench serves all of it, so it stays one file a little over 300 lines.
"""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.student.engines.port import NotFiniteError
from services.student.work import jobs as intake
from services.student.work.jobs import GATHER_S
from services.student.work.worker import EngineDeadError
from shared.bus.keys import RESULTS, STUDENTS, jobs
from shared.bus.payloads import pack
from shared.contracts.ids import seed_of
from shared.contracts.jobs import JobDone, JobInput, JobKind, JobStarted, Prompt
from shared.contracts.messages import ChatMessage
from shared.errors import OpcodError, PromptError
from tests.fakes.bus.memory import MemoryBus
from tests.fakes.bus.memory_server import MemoryServer
from tests.fakes.bus.outliving import outlive, pass_s
from tests.fakes.engine import POISON
from tests.fakes.student import HandClock, StudentBench, make_job, publish_version
from tests.fakes.waiting import WAIT_S

ROLLOUT, FEEDBACK, EVAL, REVISE = JobKind.ROLLOUT, JobKind.FEEDBACK, JobKind.EVAL, JobKind.REVISE


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[StudentBench]:
    bench = StudentBench(tmp_path)
    bench.turn()
    yield bench
    bench.close()


def versions_called(bench: StudentBench) -> list[str]:
    return [call[0].version for call in bench.engine.calls]


def test_a_job_comes_back_with_its_samples_drawn_from_its_seed(bench: StudentBench) -> None:
    job = bench.broker.issue(ROLLOUT, 7, samples=3)
    (done,) = bench.done()
    assert (done.job_id, done.outcome, done.version, done.output_tokens) == (job.id, "ok", "a@v0", 9)
    assert done.output is not None
    assert (done.output.key, done.output.field) == ("res:a:s7", f"{job.id}.out")
    (answered,) = bench.broker.output(done).prompts
    assert [sample.text for sample in answered.samples] == [f"a@v0:{seed_of(7, 0, j)}" for j in range(3)]
    assert answered.prompt_token_ids == tuple(b"2 + 2?")
    assert answered.samples[0].logprobs == (-0.5, -0.25, -0.125)
    assert bench.bus.queue_depth(jobs("a", ROLLOUT), STUDENTS) == (0, 0)


def test_an_evaluation_lies_beside_its_input(bench: StudentBench) -> None:
    job = bench.broker.issue(EVAL, 1)
    (done,) = bench.done()
    assert done.output is not None and done.output.key == job.input.key == "res:a:r1.test"


def test_urgent_kinds_come_first_whatever_came_first(tmp_path: Path) -> None:
    bench = StudentBench(tmp_path, slots=2)
    bench.turn()
    for kind in (EVAL, ROLLOUT, REVISE, FEEDBACK):
        bench.broker.issue(kind, 1, samples=2)
    kinds = [done.kind for done in bench.done(4)]
    bench.close()
    assert kinds == [FEEDBACK, REVISE, ROLLOUT, EVAL]


def test_a_batch_is_filled_to_the_slots_and_no_further(bench: StudentBench) -> None:
    for number in range(1, 7):
        bench.broker.issue(ROLLOUT, number, samples=2)
    assert len(bench.done()) == 4
    assert len(bench.engine.calls[0]) == 8
    assert len(bench.done()) == 2


def test_jobs_that_come_in_a_burst_run_together(bench: StudentBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "GATHER_S", 3.0)  # longer than a machine stands still between two jobs
    bench.broker.issue(ROLLOUT, 1, samples=2)

    def burst() -> None:
        for number in range(2, 5):
            time.sleep(GATHER_S / 10)
            bench.broker.issue(ROLLOUT, number, samples=2)

    issuing = threading.Thread(target=burst)
    issuing.start()
    assert len(bench.done()) == 4
    issuing.join(WAIT_S)
    assert [len(call) for call in bench.engine.calls] == [8]


def test_groups_run_by_version_with_the_most_urgent_first(bench: StudentBench, tmp_path: Path) -> None:
    publish_version(tmp_path, 1)
    bench.broker.serve("a@v1", "a@v0")
    bench.broker.issue(ROLLOUT, 1, version="a@v1")
    bench.broker.issue(FEEDBACK, 1, version="a@v0")
    bench.broker.issue(ROLLOUT, 2, version="a@v1")
    first = bench.done()
    assert [done.kind for done in first] == [FEEDBACK]
    assert [done.kind for done in bench.done()] == [ROLLOUT, ROLLOUT]
    assert versions_called(bench) == ["a@v0", "a@v1"]


def test_among_equals_the_version_of_the_job_taken_first_runs_first(bench: StudentBench, tmp_path: Path) -> None:
    for steps in (1, 2, 3):
        publish_version(tmp_path, steps)
    bench.broker.serve("a@v3", "a@v2", "a@v1")
    for number, version in enumerate(("a@v2", "a@v3", "a@v2"), start=1):
        bench.broker.issue(ROLLOUT, number, version=version)
    bench.broker.issue(EVAL, 4, version="a@v1")
    bench.done(3)
    assert versions_called(bench) == ["a@v2", "a@v3", "a@v1"]
    assert [call.seed for call in bench.engine.calls[0]] == [seed_of(number, 0, j) for number in (1, 3) for j in (0, 1)]


def test_feedback_that_comes_between_two_groups_runs_before_the_lower_one(bench: StudentBench, tmp_path: Path) -> None:
    publish_version(tmp_path, 1)
    bench.broker.serve("a@v1", "a@v0")
    bench.broker.issue(REVISE, 1, version="a@v1", samples=4)
    bench.broker.issue(ROLLOUT, 1, version="a@v0", samples=4)
    bench.turn()
    bench.broker.issue(ROLLOUT, 2, version="a@v0", samples=4)
    bench.broker.issue(FEEDBACK, 2, version="a@v1", samples=4)
    assert [done.job_id for done in bench.done(2)] == ["r1.a.s2.p.feedback", "r1.a.s1.p.rollout"]


def test_only_feedback_says_that_it_started_and_before_it_is_done(bench: StudentBench) -> None:
    bench.broker.issue(ROLLOUT, 1)
    bench.broker.issue(FEEDBACK, 1)
    started = []
    bench.engine.during = lambda: started.extend(bench.broker.results())
    bench.turn()
    assert [(type(message), message.key) for message in started] == [(JobStarted, "r1.a.s1.p.feedback.started.1")]


def test_engine_time_is_shared_out_among_the_jobs_of_a_group(bench: StudentBench) -> None:
    bench.engine.during = lambda: time.sleep(0.05)
    bench.broker.issue(ROLLOUT, 1, samples=1)
    bench.broker.issue(ROLLOUT, 2, samples=4)
    small, large = sorted(bench.done(), key=lambda done: done.seconds)
    assert small.seconds + large.seconds >= 0.05
    assert large.seconds == pytest.approx(4 * small.seconds)


def test_a_poisoned_job_takes_no_other_along(bench: StudentBench) -> None:
    bench.broker.issue(ROLLOUT, 1)
    bench.broker.issue(ROLLOUT, 2, text=POISON)
    bench.broker.issue(ROLLOUT, 3)
    outcomes = {done.job_id: (done.outcome, done.error) for done in bench.done()}
    assert outcomes == {
        "r1.a.s1.p.rollout": ("ok", None),
        "r1.a.s2.p.rollout": ("failed", "RuntimeError: out of memory"),
        "r1.a.s3.p.rollout": ("ok", None),
    }
    assert [len(call) for call in bench.engine.calls] == [6, 2, 2, 2]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PromptError("the template refuses: System role not supported"), "PromptError: the template refuses: System"),
        (NotFiniteError("a@v0"), "NotFiniteError: expected numbers of a@v0, got logits that are NaN"),
    ],
)
def test_a_job_that_cannot_be_answered_fails_once_and_says_why(
    bench: StudentBench, error: OpcodError, said: str
) -> None:
    def refuse() -> None:
        raise error

    bench.engine.during = refuse
    bench.broker.issue(FEEDBACK, 1)
    (done,) = bench.done(3)
    assert done.outcome == "failed" and str(done.error).startswith(said)
    assert len(bench.engine.calls) == 1
    assert bench.bus.queue_depth(jobs("a", FEEDBACK), STUDENTS) == (0, 0)


def test_a_dead_engine_ends_the_process_and_keeps_the_jobs(bench: StudentBench) -> None:
    bench.engine.dies_of_poison = True
    bench.broker.issue(ROLLOUT, 1, text=POISON)
    with pytest.raises(EngineDeadError, match="the device is lost"):
        bench.turn()
    assert bench.broker.results() == []
    assert bench.bus.queue_depth(jobs("a", ROLLOUT), STUDENTS) == (0, 1)


def test_a_job_whose_attempts_are_used_up_is_buried_with_a_failed_result(bench: StudentBench) -> None:
    bench.broker.issue(ROLLOUT, 1)
    for _ in range(bench.config.settings.bus.max_attempts):
        crashed = MemoryBus(bench.server)
        assert crashed.take([(jobs("a", ROLLOUT), STUDENTS)], "student-a-0", limit=1, block_s=0)
    (done,) = bench.done()
    assert done.outcome == "failed" and "started 3 times" in str(done.error)
    assert [letter.queue for letter in bench.bus.dead_letters()] == [jobs("a", ROLLOUT)]
    assert bench.engine.calls == []


@pytest.mark.parametrize("samples", [1, 3])
def test_an_input_of_another_size_fails_only_its_job(bench: StudentBench, samples: int) -> None:
    job, _ = make_job(ROLLOUT, 1)
    other = JobInput(prompts=(Prompt(messages=(ChatMessage(role="user", content="x"),), samples=samples),))
    ref, _ = pack(other, job.input.key, job.input.field)
    bench.broker.publish(job.model_copy(update={"input": ref}), other)
    bench.broker.issue(ROLLOUT, 2)
    outcomes = {done.job_id: done.outcome for done in bench.done()}
    assert outcomes == {job.id: "failed", "r1.a.s2.p.rollout": "ok"}


def test_a_job_without_its_payload_fails(bench: StudentBench) -> None:
    job, _ = make_job(ROLLOUT, 1)
    bench.bus.publish(jobs("a", ROLLOUT), job)
    (done,) = bench.done()
    assert done.outcome == "failed" and str(done.error).startswith("StorageError")


@pytest.mark.parametrize("what", ["other message", "other student"])
def test_what_is_no_job_of_ours_goes_to_the_dead_letters(bench: StudentBench, what: str) -> None:
    message = make_job(ROLLOUT, 1)[0].model_copy(update={"student": "b"})
    other = JobStarted(job_id="x", student="a", replica="0", attempt=1)
    bench.bus.publish(jobs("a", ROLLOUT), other if what == "other message" else message)
    bench.turn(2)
    (letter,) = bench.bus.dead_letters()
    assert "expected a Job for student a" in letter.reason


def test_a_restarted_student_takes_its_own_jobs_again(bench: StudentBench) -> None:
    bench.broker.issue(FEEDBACK, 1)

    def crash() -> None:
        raise KeyboardInterrupt

    bench.engine.during = crash
    with pytest.raises(KeyboardInterrupt):
        bench.turn()
    bench.restart()
    results = bench.turn(2)
    attempts = [message.attempt for message in results if isinstance(message, JobStarted)]
    assert attempts == [1, 2]
    assert [message.outcome for message in results if isinstance(message, JobDone)] == ["ok"]


def test_results_of_a_job_that_was_stolen_are_dropped(tmp_path: Path) -> None:
    bench = StudentBench(tmp_path, lease_s=0.3, server=MemoryServer(HandClock()))
    bench.turn()
    bench.leases.close()  # renewals stop, as in a process that was stopped for longer than its lease
    bench.broker.issue(ROLLOUT, 1)
    thief = MemoryBus(bench.server, lease_s=0.3)

    def stall() -> None:
        pass_s(bench.server, bench.lease_s * 1.2)
        assert thief.take([(jobs("a", ROLLOUT), STUDENTS)], "student-a-1", limit=1, block_s=0)

    bench.engine.during = stall
    assert bench.done() == []
    assert bench.bus.queue_depth(jobs("a", ROLLOUT), STUDENTS) == (0, 1)


def test_a_handler_slower_than_its_lease_keeps_its_job(tmp_path: Path) -> None:
    bench = StudentBench(tmp_path, lease_s=0.3, server=MemoryServer(HandClock()))
    bench.turn()
    bench.broker.issue(ROLLOUT, 1)
    thief = MemoryBus(bench.server, lease_s=0.3)
    stolen: list[object] = []

    def slow() -> None:
        outlive(bench.server, bench.lease_s)
        stolen.extend(thief.take([(jobs("a", ROLLOUT), STUDENTS)], "student-a-1", limit=1, block_s=0))

    bench.engine.during = slow
    assert [done.outcome for done in bench.done()] == ["ok"]
    assert stolen == []
    bench.close()


@pytest.fixture
def lapsing(tmp_path: Path) -> Iterator[StudentBench]:
    """On a server whose clock is moved by hand: it runs on while this process and its clocks stand still."""
    bench = StudentBench(tmp_path, lease_s=0.6, continuous=True, server=MemoryServer(HandClock()))
    bench.turn()
    bench.engine.hold = True
    yield bench
    bench.close()


def done_after(bench: StudentBench, calls: int) -> list[tuple[str, str]]:
    """Outcomes of two jobs, which are let go a few turns after so many calls of the engine."""
    turns_left = 5
    until_s = time.monotonic() + WAIT_S
    found: list[JobDone] = []
    while len(found) < 2:
        assert time.monotonic() < until_s
        bench.running.check(overdue=False)
        found += bench.done()
        turns_left -= len(bench.engine.calls) >= calls
        bench.engine.hold = turns_left > 0
    return sorted((done.job_id, done.outcome) for done in found)


@pytest.mark.parametrize("redis_away", [False, True], ids=["machine suspended", "redis away"])
def test_f91_after_a_lapse_longer_than_the_lease_what_nobody_took_is_kept(
    lapsing: StudentBench, redis_away: bool
) -> None:
    ids = [lapsing.broker.issue(ROLLOUT, number).id for number in (1, 2)]
    until_s = time.monotonic() + WAIT_S
    while len(lapsing.engine.calls) < 2:
        assert time.monotonic() < until_s
        lapsing.worker.turn()
    lapsing.server.down = redis_away
    if redis_away:
        time.sleep(2 * lapsing.lease_s)
    lapsing.running.check(overdue=False)
    lapsing.server.down = False
    pass_s(lapsing.server, 3600)
    assert done_after(lapsing, 2) == [(id_, "ok") for id_ in ids]
    assert len(lapsing.engine.calls) == 2
    assert lapsing.bus.dead_letters() == []


def test_losing_every_lease_cancels_the_generation(bench: StudentBench) -> None:
    bench.engine.hold = True
    bench.broker.issue(ROLLOUT, 1)
    thread = threading.Thread(target=bench.turn)
    thread.start()
    assert bench.engine.started.wait(WAIT_S)
    bench.running.check(overdue=False)
    assert thread.is_alive()
    for held in bench.worker.intake.held:
        held.lost.set()
    bench.running.check(overdue=False)
    thread.join(WAIT_S)
    assert not thread.is_alive()
    assert bench.done() == []
    assert bench.worker.intake.held == []


def test_while_the_bus_is_away_results_wait_and_are_delivered_later(bench: StudentBench) -> None:
    bench.broker.issue(ROLLOUT, 1)

    def fall() -> None:
        bench.server.down = True

    bench.engine.during = fall
    bench.worker.turn()
    assert bench.board.not_ready() is not None
    bench.engine.during = lambda: None
    bench.server.down = False
    assert [done.outcome for done in bench.done()] == ["ok"]
    assert len(bench.engine.calls) == 1
    assert bench.board.not_ready() is None


def test_after_a_bus_that_lost_everything_the_loaded_versions_are_reported_again(bench: StudentBench) -> None:
    bench.server.down = True
    bench.worker.turn()
    bench.server.down = False
    bench.server.flush()
    bench.bus.create_queue(RESULTS, "broker")
    reported = [message.key for message in bench.turn()]
    assert reported == ["a@v0.0.loaded"]


def test_stopping_gives_back_what_is_in_hand_without_an_attempt(bench: StudentBench) -> None:
    bench.engine.hold = True
    bench.broker.issue(ROLLOUT, 1)
    thread = threading.Thread(target=bench.worker.run)
    thread.start()
    assert bench.engine.started.wait(WAIT_S)
    ended = threading.Event()
    watch = threading.Thread(target=bench.running.watch, args=(bench.stopping, ended))
    watch.start()
    bench.stopping.set()
    thread.join(WAIT_S)
    ended.set()
    watch.join(WAIT_S)
    assert not thread.is_alive()
    (taken,) = MemoryBus(bench.server).take([(jobs("a", ROLLOUT), STUDENTS)], "student-a-1", limit=9, block_s=0)
    assert taken.attempt == 1
    assert bench.board.state == "draining"


def test_stopping_lets_a_short_group_finish(bench: StudentBench) -> None:
    bench.broker.issue(ROLLOUT, 1)
    bench.engine.during = bench.stopping.set
    bench.worker.run()
    assert [type(message) for message in bench.broker.results()] == [JobDone]
