"""A job whose version one replica cannot load is done by another; nothing is lost, and nothing goes round for ever."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.student.board import student_heartbeat
from services.student.weights.versions import FIRST_BACKOFF_S, LONGEST_BACKOFF_S
from services.student.work.jobs import LOAD_TRIES, next_replica
from shared.bus.keys import STUDENTS, jobs
from shared.contracts.heartbeats import Heartbeat
from shared.contracts.jobs import JobDone, JobKind
from tests.fakes.bus.memory import MemoryBus
from tests.fakes.student import HandClock, StudentBench, make_job, publish_version

JOB, _ = make_job(JobKind.ROLLOUT, 1, version="a@v1")


def beat(replica: str, *versions: str, state: str = "ready", service: str = "student-a") -> Heartbeat:
    return Heartbeat(service=service, replica=replica, state=state, versions=dict.fromkeys(versions, "c" * 64), at=0.0)


@pytest.mark.parametrize(
    ("beats", "expected"),
    [
        ([], None),
        ([beat("0", "a@v1")], None),
        ([beat("0"), beat("1")], "student-a-1"),
        ([beat("1"), beat("2", "a@v1"), beat("3")], "student-a-2"),
        ([beat("1", state="draining")], None),
        ([beat("1", service="student-b"), beat("1", service="trainer-a")], None),
    ],
    ids=["none", "refused", "may load it", "holds it", "draining", "others"],
)
def test_a_job_goes_to_one_that_is_up_and_did_not_refuse_it(beats: list[Heartbeat], expected: str | None) -> None:
    assert next_replica(JOB, beats, {"student-a-0"}) == expected


def test_jobs_are_spread_over_those_that_hold_the_version() -> None:
    beats = [beat(str(replica), "a@v1") for replica in range(4)]
    made = [make_job(JobKind.ROLLOUT, number, version="a@v1")[0] for number in range(30)]
    chosen = {next_replica(job, beats, {"student-a-0"}) for job in made}
    assert chosen == {"student-a-1", "student-a-2", "student-a-3"}


class Pair:
    """Two replicas of student a on one server, each with its own copy of the versions."""

    def __init__(self, path: Path, *, continuous: bool) -> None:
        self.clock = HandClock()
        self.folders = (path / "0", path / "1")
        self.first = StudentBench(self.folders[0], continuous=continuous, clock=self.clock)
        self.second = StudentBench(
            self.folders[1], continuous=continuous, replica="1", server=self.first.server, clock=self.clock
        )

    def publish(self, steps: int) -> None:
        for folder in self.folders:
            publish_version(folder, steps)

    def lose(self, replica: int, steps: int) -> None:
        """Its copy of a version."""
        shutil.rmtree(self.folders[replica] / "weights" / "a" / f"v{steps:06d}")

    def turn(self, times: int = 6) -> list[JobDone]:
        found = []
        for _ in range(times):
            for bench in (self.first, self.second):
                bench.bus.beat(student_heartbeat(bench.config, bench.board, bench.clock, bench.stopping), ttl_s=60)
                found += bench.done()
        return found


@pytest.fixture(params=[False, True], ids=["groups", "continuous"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    both = Pair(tmp_path, continuous=request.param)
    both.turn(1)
    yield both
    both.first.close()
    both.second.close()


def left(pair: Pair) -> tuple[int, int]:
    return pair.first.bus.queue_depth(jobs("a", JobKind.ROLLOUT), STUDENTS)


def test_what_one_replica_refuses_the_other_does_once(pair: Pair) -> None:
    pair.publish(1)
    pair.lose(0, 1)
    for number in range(1, 9):
        pair.first.broker.issue(JobKind.ROLLOUT, number, version="a@v1")
    done = pair.turn()
    assert sorted(job.job_id for job in done) == [f"r1.a.s{number}.p.rollout" for number in range(1, 9)]
    assert {(job.outcome, job.replica) for job in done} == {("ok", "1")}
    assert left(pair) == (0, 0)


def test_what_all_refuse_fails_with_the_refusal(pair: Pair) -> None:
    pair.first.broker.issue(JobKind.ROLLOUT, 1, version="a@v5")
    for _ in range(LOAD_TRIES - 1):
        assert pair.turn() == []
        pair.clock.now_s += LONGEST_BACKOFF_S
    (done,) = pair.turn()
    assert done.outcome == "failed" and str(done.error).startswith("VersionRefusedError: a@v5")
    assert left(pair) == (0, 0)


def test_what_the_only_one_up_refuses_waits_until_another_is_there(pair: Pair) -> None:
    pair.second.stopping.set()
    pair.turn(1)
    pair.publish(1)
    pair.lose(0, 1)
    pair.first.broker.issue(JobKind.ROLLOUT, 1, version="a@v1")
    assert pair.first.done(2) == [] and left(pair) == (0, 1)
    pair.second.stopping.clear()
    pair.turn(1)
    pair.clock.now_s += FIRST_BACKOFF_S
    assert [(job.outcome, job.replica) for job in pair.turn()] == [("ok", "1")]


def test_a_replica_that_went_after_it_was_given_a_job_loses_nothing(pair: Pair) -> None:
    pair.first.broker.issue(JobKind.ROLLOUT, 1, version="a@v5")
    assert pair.first.done() == [] and left(pair) == (0, 1)
    third = MemoryBus(pair.first.server, lease_s=60)
    queue = [(jobs("a", JobKind.ROLLOUT), STUDENTS)]
    assert third.take(queue, "student-a-0", limit=1, block_s=0) == []
    (given,) = third.take(queue, "student-a-1", limit=1, block_s=0)
    assert (given.attempt, given.refused_by) == (1, ("student-a-0",))
