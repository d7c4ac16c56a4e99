"""Whole runs of the broker's loop on a bus in memory: to the end, through restarts, losses and bad results."""

import threading
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from opcod.local.progress import headline
from services.broker.runner import SWEEP_S
from shared.bus.keys import BROKER, LEADER, RESULTS, STUDENTS, jobs
from shared.bus.leases import HeldLease
from shared.bus.payloads import pack
from shared.contracts.acting import Control
from shared.contracts.heartbeats import Heartbeat
from shared.contracts.jobs import Job, JobKind, JobOutput, JobStarted
from shared.contracts.run import RunState, Status
from shared.contracts.weights import VersionRefused
from shared.errors import FencedError
from tests.fakes.broker import THREE, BrokerBench, create_queues
from tests.fakes.bus.memory import MemoryBus
from tests.fakes.figures import step_done
from tests.fakes.whole_runs import OFF, assert_whole, first_is_applied, is_training, one_is_sealed


@pytest.fixture
def bench(run_dir: Path, request: pytest.FixtureRequest) -> BrokerBench:
    return BrokerBench(run_dir, [*OFF, *getattr(request, "param", ())])


of_two_and_three = pytest.mark.parametrize("bench", [(), THREE], ids=["two", "three"], indirect=True)


def test_a_whole_run_is_made_on_the_bus(run_dir: Path) -> None:
    bench = BrokerBench(run_dir)
    bench.finish()
    assert_whole(bench)
    tally = bench.state.tallies["a"]
    assert sum(row.right + row.wrong for row in tally.revisions) == 12
    assert tally.output_tokens["rollout"] == 2 * 2 * 3 * 3
    assert tally.trainer_seconds == {"student": 0.5}
    waiting = [bench.workers.queue_depth(jobs(s, kind), STUDENTS) for s in "ab" for kind in JobKind]
    assert waiting == [(0, 0)] * 8
    assert bench.workers.queue_depth(RESULTS, BROKER) == (0, 0)
    assert bench.server.payloads == {}, "nothing is kept that nobody needs any more"


def test_people_see_the_run(run_dir: Path) -> None:
    bench = BrokerBench(run_dir)
    bench.finish()
    counts = {
        kind: len(bench.events(kind))
        for kind in ("gate", "evaluated", "group", "feedback", "revised", "sealed", "step")
    }
    assert counts == {
        "gate": 1,
        "evaluated": 8,
        "group": 8,
        "feedback": 24,
        "revised": 24,
        "sealed": 4,
        "step": 4,
    }
    statuses = [event.status for event in bench.events("status") if event.kind == "status"]
    assert statuses == ["GATED", "TRAINING", "ROUND_DONE", "FINAL_EVAL", "DONE"]


def test_all_that_is_told_says_when_and_by_whom(bench: BrokerBench) -> None:
    bench.finish()
    told = [event for _, event in bench.workers.read_events("0", count=1000, block_s=0)]
    assert {event.kind for event in told} >= {"status", "evaluated", "gate", "group", "sealed", "step", "serving"}
    assert {event.source for event in told} == {"broker/broker/0"}
    times = [event.at for event in told]
    assert times == sorted(times) and bench.clock.now_s >= times[0] > 0


@of_two_and_three
@pytest.mark.parametrize("until", [is_training, one_is_sealed, first_is_applied])
def test_a_broker_started_again_goes_on(bench: BrokerBench, until: object) -> None:
    bench.run(until)  # type: ignore[arg-type]
    before = bench.runner
    bench.start()
    assert bench.state.revision > before.state.revision
    bench.finish()
    assert_whole(bench)


def test_the_broker_before_cannot_write_any_more(bench: BrokerBench) -> None:
    bench.run(is_training)
    before = bench.runner
    bench.start()
    MemoryBus(bench.server).publish(RESULTS, Control(id="1", action="pause"))
    with pytest.raises(FencedError):
        before.loop(threading.Event(), threading.Event())


@of_two_and_three
@pytest.mark.parametrize("until", [is_training, one_is_sealed, first_is_applied])
def test_a_run_goes_on_from_its_files_when_redis_lost_everything(bench: BrokerBench, until: object) -> None:
    bench.run(until)  # type: ignore[arg-type]
    bench.server.flush()
    create_queues(bench.workers, bench.settings.names)
    bench.workers.publish(RESULTS, Control(id="1", action="resume"))
    with pytest.raises(FencedError, match="lost its data"):
        bench.runner.loop(threading.Event(), threading.Event())
    bench.start()
    (taken,) = bench.events("taken_up")
    assert "taken up from state.json (Redis holds nothing of this run" in (headline(taken) or "")
    assert f"a at step {bench.state.steps['a']}" in (headline(taken) or "")
    bench.finish()
    assert_whole(bench)


@of_two_and_three
@pytest.mark.parametrize("kind", [JobKind.ROLLOUT, JobKind.FEEDBACK])
def test_f92_with_a_redis_older_than_the_files_open_work_is_made_again_once_and_no_report_of_before_counts(
    bench: BrokerBench, kind: JobKind
) -> None:
    """Of each student one job is in hand, and the reports of its others lie unread."""
    bench.run(is_training)
    if kind is JobKind.FEEDBACK:
        for student in bench.students.values():
            student.held = {kind}
        bench.settle()
    in_hand = []
    for name, student in bench.students.items():
        student.held = set()
        in_hand += bench.workers.take([(jobs(name, kind), STUDENTS)], f"student-{name}", limit=1, block_s=0)
        student.work()
    asked = Control(id="1", action="pause", reason="lunch")
    bench.workers.publish(RESULTS, asked)
    older = bench.server.saved()
    bench.turn()
    before = [len(student.done) for student in bench.students.values()]
    bench.server.restore(older)
    bench.start()
    (taken,) = bench.events("taken_up")
    assert "newer than Redis" in (headline(taken) or "")
    assert in_hand and not any(bench.workers.complete(delivery) for delivery in in_hand)
    bench.turn()
    assert bench.state.paused == "lunch", "what a person asked for stays"
    bench.workers.publish(RESULTS, Control(id="2", action="resume"))
    bench.finish()
    assert_whole(bench)
    assert bench.events("lost") == []
    assert all(tally.lost_feedback == {} for tally in bench.state.tallies.values())
    for student, count in zip(bench.students.values(), before, strict=True):
        again = [done.job_id for done in student.done[count:]]
        assert len(again) == len(set(again))
    assert bench.server.payloads == {}


def test_an_emptied_redis_is_noticed_where_nothing_is_said(bench: BrokerBench) -> None:
    """The lease went with the data: that ends the loop, and the process, which takes the run up again."""
    bench.settle()
    lease = HeldLease(MemoryBus(bench.server), LEADER, "broker/0", ttl_s=0.3)
    assert lease.try_acquire()
    bench.server.flush()
    bench.runner.loop(threading.Event(), lease.lost)
    assert lease.lost.is_set()
    lease.release()


@of_two_and_three
def test_a_batch_that_was_sealed_just_before_the_crash_is_adopted(bench: BrokerBench) -> None:
    """The files of a step are there, the state does not know of them: what the crash between the two leaves."""
    for trainer in bench.trainers.values():
        trainer.held = True
    bench.run(is_training)
    earlier = bench.server.state
    assert earlier is not None
    bench.run(one_is_sealed)
    sealed = {path: path.read_bytes() for path in bench.run_dir.glob("batches/*/*/*")}
    bench.server.flush()
    (bench.run_dir / "state.json").write_text(earlier)
    for trainer in bench.trainers.values():
        trainer.held = False
    bench.start()
    bench.finish()
    assert_whole(bench)
    assert {path: path.read_bytes() for path in sealed} == sealed


def test_a_result_that_cannot_be_used_is_made_again(bench: BrokerBench) -> None:
    """Short groups, no prompts at all, and the output of another job: each is a failed job, not a broken broker."""
    spoiled: list[str] = []
    ways = [
        lambda o: o.model_copy(update={"prompts": ()}),
        lambda o: o.model_copy(
            update={"prompts": (o.prompts[0].model_copy(update={"samples": o.prompts[0].samples[:1]}),)}
        ),
        lambda o: o.model_copy(update={"job_id": "r9.a.s9.other.rollout"}),
    ]

    def spoil(job: Job, output: JobOutput) -> JobOutput:
        if job.kind is JobKind.ROLLOUT and ways and not job.id.endswith(".t2"):
            spoiled.append(job.id)
            return ways.pop()(output)
        return output

    bench.students["a"].spoil = spoil
    bench.finish()
    assert_whole(bench)
    assert len(spoiled) == 3
    assert [event.job_id for event in bench.events("lost") if event.kind == "lost"] == spoiled


def test_bytes_that_are_not_what_was_announced_fail_the_job(bench: BrokerBench) -> None:
    bench.run(is_training)
    bench.students["a"].work()
    key = next(key for key in bench.server.payloads if key.startswith("res:a:s"))
    field = next(name for name in bench.server.payloads[key] if name.endswith("rollout.out"))
    bench.server.payloads[key][field] = b"other bytes"
    bench.finish()
    assert_whole(bench)
    [lost] = bench.events("lost")
    assert lost.kind == "lost" and "expected sha256" in lost.reason


def test_spoiled_feedback_is_lost_and_the_step_goes_on(bench: BrokerBench) -> None:
    bench.students["b"].spoil = lambda job, output: (
        output.model_copy(update={"prompts": ()}) if job.kind is JobKind.FEEDBACK else output
    )
    bench.finish()
    assert_whole(bench)
    assert bench.state.tallies["a"].verdicts == {1: {"fb_none": 12}}
    assert bench.state.tallies["a"].lost_feedback == {"failed": 4}
    assert bench.state.tallies["b"].lost_feedback == {}


@of_two_and_three
def test_repeated_results_count_once(bench: BrokerBench) -> None:
    bench.run(one_is_sealed)
    for student in bench.students.values():
        for done in student.done:
            bench.workers.publish(RESULTS, done)
    bench.run(first_is_applied)
    bench.workers.publish(RESULTS, step_done("a", 1))
    bench.finish()
    assert_whole(bench)
    students, problems = len(bench.students), bench.settings.problems.per_step
    tally = bench.state.tallies["a"]
    assert (tally.output_tokens["rollout"], tally.trained_tokens) == (2 * problems * 3 * 3, 36)
    groups = 2 * problems * students
    assert [len(bench.events(kind)) for kind in ("group", "feedback", "step")] == [groups, 3 * groups, 2 * students]


def test_a_tutor_that_takes_too_long_is_not_waited_for(run_dir: Path) -> None:
    """It begins, and is never heard of again."""
    bench = BrokerBench(run_dir, (*OFF, "feedback.tutor_timeout_s=5"))
    bench.students["b"].held = {JobKind.FEEDBACK}

    def tutor_takes() -> None:
        queue = (jobs("b", JobKind.FEEDBACK), STUDENTS)
        for delivery in bench.workers.take([queue], "student-b", limit=10, block_s=0):
            started = JobStarted(job_id=delivery.message.key, student="b", replica="0", attempt=1)
            bench.workers.publish(RESULTS, started)

    def all_lost(state: RunState) -> bool:
        tutor_takes()
        bench.clock.now_s += 10
        return sum(state.tallies["a"].lost_feedback.values()) == 2

    bench.run(all_lost)
    assert bench.state.tallies["a"].lost_feedback == {"tutor_timeout": 2}


def test_f93_feedback_that_comes_when_its_step_is_over_leaves_nothing_behind(bench: BrokerBench) -> None:
    bench.run(is_training)
    for student in bench.students.values():
        student.slow = {JobKind.FEEDBACK}
    bench.settle()
    bench.clock.now_s += bench.settings.feedback.tutor_timeout_s + 1
    bench.settle()
    for student in bench.students.values():
        student.slow = set()
    bench.run(lambda state: all(phase.step is None or phase.step.step > 1 for phase in state.phases))
    open_ones = set(bench.server.payloads)
    for student in bench.students.values():
        for delivery in student.begun:
            ref, data = pack(JobOutput(job_id=delivery.message.key, version="b@v0", prompts=()), "res:a:s1", "late.out")
            assert bench.workers.complete(delivery, payload=(ref, data))
    assert set(bench.server.payloads) - open_ones == {"res:a:s1"}
    bench.clock.now_s += SWEEP_S
    bench.turn()
    assert set(bench.server.payloads) == open_ones
    bench.finish()
    assert bench.server.payloads == {}


@pytest.mark.parametrize("more", [(), THREE], ids=["two", "three"])
def test_no_sweep_takes_what_open_work_needs(run_dir: Path, more: tuple[str, ...]) -> None:
    """Of a run whose revisions outlive their steps; a sweep in every turn."""
    bench = BrokerBench(run_dir, more)

    def is_done(state: RunState) -> bool:
        bench.clock.now_s += SWEEP_S
        outlived = any(phase.kept_steps for phase in state.phases)
        for student in bench.students.values():
            student.held = set() if outlived else {JobKind.REVISE}
        return state.status is Status.DONE

    bench.run(is_done)
    assert_whole(bench)
    assert bench.events("lost") == []
    answers = 2 * bench.settings.problems.per_step * bench.settings.rollout.samples
    assert sum(row.right + row.wrong for row in bench.state.tallies["a"].revisions) == answers


def test_control_pauses_resumes_and_aborts(bench: BrokerBench) -> None:
    bench.run(is_training)
    bench.workers.publish(RESULTS, Control(id="1", action="pause", reason="lunch"))
    bench.run(lambda state: state.paused == "lunch")
    bench.settle()
    assert is_training(bench.state) and not one_is_sealed(bench.state)
    bench.workers.publish(RESULTS, Control(id="2", action="resume"))
    bench.run(first_is_applied)
    bench.workers.publish(RESULTS, Control(id="3", action="abort", reason="enough"))
    bench.run(lambda state: state.status is Status.FAILED)
    assert bench.state.failed == "enough"


def test_a_run_that_is_resumed_says_anew_what_is_to_be_served(bench: BrokerBench) -> None:
    """By which a student forgets what it has refused."""
    bench.run(is_training)
    refused = VersionRefused(student="a", replica="0", version=bench.state.version["a"], reason="no such file")
    bench.workers.publish(RESULTS, refused)
    bench.workers.publish(RESULTS, refused)
    bench.run(lambda state: state.paused is not None)
    bench.settle()
    before = bench.serve_set("a")
    bench.workers.publish(RESULTS, Control(id="1", action="resume"))
    bench.run(lambda state: state.paused is None)
    after = bench.serve_set("a")
    assert after == before.model_copy(update={"revision": after.revision}) and after.revision > before.revision


def test_a_run_that_is_done_stays_done(bench: BrokerBench) -> None:
    bench.finish()
    for action in ("pause", "abort"):
        bench.workers.publish(RESULTS, Control.model_validate({"id": action, "action": action}))
        bench.turn()
    assert (bench.state.status, bench.state.paused, bench.state.failed) == (Status.DONE, None, None)


def test_that_it_stands_is_said_once_for_each_reason(bench: BrokerBench) -> None:
    with capture_logs() as logs:
        bench.run(is_training)
        for id_, action, reason in (("1", "pause", "lunch"), ("2", "pause", "lunch"), ("3", "abort", "enough")):
            control = Control.model_validate({"id": id_, "action": action, "reason": reason})
            bench.workers.publish(RESULTS, control)
            bench.settle()
        bench.settle()
    said = [(each["paused"], each["failed"]) for each in logs if each["event"] == "run stands"]
    assert [reasons for reasons in said if reasons[1] is None] == [("lunch", None)]
    assert [failed for _, failed in said if failed] == ["enough"]


def test_that_it_is_done_is_said_once(bench: BrokerBench) -> None:
    with capture_logs() as logs:
        bench.finish()
        for number in range(3):
            bench.workers.publish(RESULTS, Control(id=str(number), action="pause"))
            bench.turn()
    assert [each["status"] for each in logs if each["event"] == "run stands"] == ["DONE"]


def test_serving_only_issues_nothing(run_dir: Path) -> None:
    bench = BrokerBench(run_dir, OFF, train=False)
    bench.settle()
    assert bench.state.status is Status.VALIDATING
    assert [student.done for student in bench.students.values()] == [[], []]
    assert bench.state.served == {"a": "a@v0", "b": "b@v0"}
    assert bench.serve_set("a").versions == ("a@v0",)


@pytest.mark.parametrize("lost", [False, True], ids=["redis kept", "redis lost"])
def test_a_run_that_was_only_served_in_between_goes_on(bench: BrokerBench, lost: bool) -> None:
    """What comes from jobs of before while it is only served is not thrown away, nor is a lost Redis forgotten."""
    bench.run(is_training)
    if lost:
        bench.server.flush()
    bench.start(train=False)
    issued = [len(student.done) for student in bench.students.values()]
    bench.settle()
    if lost:
        assert [len(student.done) for student in bench.students.values()] == issued
    bench.start(train=True)
    bench.finish()
    assert_whole(bench)


def test_a_version_that_a_replica_holds_counts_as_served_though_its_word_was_lost(bench: BrokerBench) -> None:
    bench.run(lambda state: state.version["a"] == "a@v1")
    assert bench.state.served.get("a") != "a@v1"
    beat = Heartbeat(service="student-a", replica="0", state="ready", versions={"a@v1": "c" * 64}, at=0.0)
    bench.workers.beat(beat, ttl_s=60)
    bench.clock.now_s += 5
    bench.turn()
    assert bench.state.served["a"] == "a@v1"
