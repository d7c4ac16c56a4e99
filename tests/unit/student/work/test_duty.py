"""Of two replicas whose engines hold one version each, one keeps the live version and the other the tutor's; whoever
is left does everything."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.student.work.duty import KINDS, PATIENCE_S, TURN_S, Duties, Duty, duty_of, of_one_version
from shared.contracts.heartbeats import Heartbeat
from shared.contracts.jobs import JOB_PRIORITY, Job, JobDone, JobKind, JobStarted
from shared.contracts.weights import ServeSet, VersionLoaded
from tests.fakes.bus.memory import MemoryBus
from tests.fakes.student import APART, HandClock, StudentBench, make_job, prepare_models, publish_version

FEEDBACK, REVISE, ROLLOUT, EVAL = JOB_PRIORITY
BOTH = ServeSet(live="a@v3", versions=("a@v1", "a@v3"))
SAME = ServeSet(live="a@v1", versions=("a@v1",))


def beat(replica: str, *versions: str, state: str = "ready", service: str = "student-a") -> Heartbeat:
    return Heartbeat(service=service, replica=replica, state=state, versions=dict.fromkeys(versions, "c" * 64), at=0.0)


# Pure ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("replica", "others", "wanted", "expected"),
    [
        ("0", {"1"}, BOTH, Duty.LIVE),
        ("1", {"0"}, BOTH, Duty.TUTOR),
        ("0", set[str](), BOTH, Duty.ALL),
        ("1", set[str](), BOTH, Duty.ALL),
        ("0", {"1"}, SAME, Duty.ALL),
        ("1", {"0"}, SAME, Duty.ALL),
        ("2", {"0", "1"}, BOTH, Duty.LIVE),
        ("2", {"1"}, BOTH, Duty.TUTOR),
        ("student-a-1", {"student-a-0"}, BOTH, Duty.TUTOR),
    ],
)
def test_every_second_replica_keeps_the_tutors_version(
    replica: str, others: set[str], wanted: ServeSet, expected: Duty
) -> None:
    assert duty_of(replica, others, wanted) is expected


@given(st.sets(st.text("0123456789abc-", min_size=1), min_size=1, max_size=9))
def test_of_any_replicas_every_kind_of_job_is_somebodys(names: set[str]) -> None:
    duties = [duty_of(name, names - {name}, BOTH) for name in names]
    assert {kind for duty in duties for kind in KINDS[duty]} == set(JobKind)


@dataclass(frozen=True)
class InHand:
    job: Job


def in_hand(*jobs: tuple[JobKind, str]) -> list[InHand]:
    return [InHand(make_job(kind, number, version=version)[0]) for number, (kind, version) in enumerate(jobs)]


@pytest.mark.parametrize(
    ("waiting", "under_way", "starts"),
    [
        ([], [(ROLLOUT, "a@v3")], 0),
        ([(FEEDBACK, "a@v1"), (ROLLOUT, "a@v3"), (ROLLOUT, "a@v3")], [], 1),
        ([(ROLLOUT, "a@v3"), (EVAL, "a@v3")], [(REVISE, "a@v3")], 2),
        ([(FEEDBACK, "a@v1"), (ROLLOUT, "a@v3")], [(ROLLOUT, "a@v3")], 0),
        ([(FEEDBACK, "a@v1"), (ROLLOUT, "a@v3")], [(FEEDBACK, "a@v1")], 1),
        ([(ROLLOUT, "a@v3")], [(FEEDBACK, "a@v1")], 0),
    ],
    ids=["nothing waits", "the most urgent", "of what runs", "what runs ends first", "more of it", "and then others"],
)
def test_jobs_of_one_version_run_at_a_time(
    waiting: Sequence[tuple[JobKind, str]], under_way: Sequence[tuple[JobKind, str]], starts: int
) -> None:
    held = in_hand(*waiting)
    assert of_one_version(held, in_hand(*under_way)) == held[:starts]


# As the others and the serve set change ------------------------------------------------------------------


class Following:
    def __init__(self) -> None:
        self.clock = HandClock()
        self.bus = MemoryBus(clock=self.clock)
        self.duties = Duties("a", "1", self.bus, self.clock, period_s=2.0)

    def after(self, seconds: float, *beats: Heartbeat, wanted: ServeSet = BOTH) -> Duty:
        """beats: of the others, each for a moment."""
        self.clock.now_s += seconds
        for each in beats:
            self.bus.beat(each, ttl_s=1.0)
        return self.duties.follow(wanted)

    def idle(self, seconds: float, *held: tuple[JobKind, str]) -> Sequence[JobKind]:
        """What may be taken after so many turns of a second each."""
        found: Sequence[JobKind] = ()
        for _ in range(round(seconds)):
            self.clock.now_s += 1.0
            found = self.duties.kinds([each.job for each in in_hand(*held)])
        return found


@pytest.fixture
def following() -> Following:
    return Following()


@pytest.mark.parametrize(
    "other", [beat("0", state="starting"), beat("0", state="degraded"), beat("0", state="draining"), beat("1")]
)
def test_only_another_that_is_ready_has_a_duty(following: Following, other: Heartbeat) -> None:
    assert following.after(9.0, other) is Duty.ALL
    assert following.after(9.0, beat("0"), beat("0", service="student-b")) is Duty.TUTOR
    assert following.after(9.0) is Duty.ALL


def test_heartbeats_are_read_once_in_a_period(following: Following) -> None:
    assert following.after(0.0) is Duty.ALL
    assert following.after(1.9, beat("0")) is Duty.ALL
    assert following.after(0.1, beat("0")) is Duty.TUTOR


def test_a_live_version_that_nobody_holds_is_loaded_in_the_end(following: Following) -> None:
    assert following.after(9.0, beat("0", "a@v1")) is Duty.TUTOR
    assert following.after(PATIENCE_S - 1, beat("0", "a@v1")) is Duty.TUTOR
    assert following.after(2.0, beat("0", "a@v1")) is Duty.ALL
    assert following.after(9.0, beat("0", "a@v3")) is Duty.TUTOR
    assert following.after(PATIENCE_S, beat("0", "a@v3")) is Duty.TUTOR
    later = ServeSet(live="a@v4", versions=("a@v1", "a@v4"))
    assert following.after(PATIENCE_S, beat("0", "a@v3"), wanted=later) is Duty.TUTOR


def test_who_waits_for_work_of_its_duty_takes_any_in_the_end(following: Following) -> None:
    following.after(9.0, beat("0"))
    assert following.idle(PATIENCE_S - 1) == (FEEDBACK,)
    assert following.idle(2) == JOB_PRIORITY
    assert following.idle(9, (ROLLOUT, "a@v3")) == JOB_PRIORITY
    assert following.idle(1, (ROLLOUT, "a@v3"), (FEEDBACK, "a@v1")) == (FEEDBACK,)
    assert following.idle(PATIENCE_S - 1) == (FEEDBACK,)


def test_a_turn_in_which_a_version_was_loaded_is_no_wait_for_work(following: Following) -> None:
    following.after(9.0, beat("0"))
    following.idle(1)
    following.clock.now_s += 10 * PATIENCE_S
    assert following.duties.kinds([]) == (FEEDBACK,)
    assert TURN_S < PATIENCE_S


# In the engine's thread ----------------------------------------------------------------------------------


@pytest.fixture
def tutor(tmp_path: Path) -> Iterator[StudentBench]:
    """Replica 1 with v0 loaded, beside a replica 0 that is ready."""
    prepare_models(tmp_path, "a")
    for steps in (1, 2):
        publish_version(tmp_path, steps)
    bench = StudentBench(tmp_path, *APART, "bus.heartbeat_s=0.001", continuous=True, replica="1")
    bench.bus.beat(beat("0", "a@v0", "a@v1", "a@v2"), ttl_s=600)
    bench.turn()
    yield bench
    bench.engine.go.set()
    bench.close()


def test_it_stays_with_the_tutors_version_through_the_steps_of_a_round(tutor: StudentBench) -> None:
    for live in ("a@v1", "a@v2"):
        tutor.broker.serve(live, "a@v0")
        tutor.turn(2)
    assert tutor.engine.loads == ["a@v0"]
    assert tutor.board.serving.live == "a@v0" and tutor.board.not_ready() is None
    tutor.broker.serve("a@v2")
    messages = tutor.turn(2)
    assert [each.version for each in messages if isinstance(each, VersionLoaded)] == ["a@v2"]
    assert list(tutor.engine.versions()) == ["a@v2"]


def test_it_leaves_rollouts_to_the_other_and_takes_them_when_that_is_gone(tutor: StudentBench) -> None:
    tutor.broker.serve("a@v1", "a@v0")
    tutor.turn()
    tutor.broker.issue(ROLLOUT, 1, version="a@v1")
    tutor.broker.issue(FEEDBACK, 2)
    done: list[JobDone] = []
    while not done:
        done = tutor.done()
    assert [each.kind for each in done] == [FEEDBACK] and tutor.done(2) == []
    tutor.bus.beat(beat("0", state="draining"), ttl_s=600)
    while len(done) < 2:
        done += tutor.done()
    assert [(each.kind, each.outcome) for each in done[1:]] == [(ROLLOUT, "ok")]
    assert tutor.engine.loads == ["a@v0", "a@v1"]


def test_one_that_comes_in_the_middle_of_a_round_loads_both_once(tutor: StudentBench) -> None:
    tutor.broker.serve("a@v2", "a@v0")
    tutor.restart()
    tutor.bus.beat(beat("0", "a@v0", "a@v2"), ttl_s=600)
    tutor.turn(3)
    assert tutor.engine.loads == ["a@v2", "a@v0"]


def test_feedback_that_waits_for_rollouts_to_end_is_not_said_to_be_begun(tutor: StudentBench) -> None:
    tutor.bus.beat(beat("0", state="draining"), ttl_s=600)
    tutor.broker.serve("a@v1", "a@v0")
    tutor.turn()
    tutor.engine.continuous, tutor.engine.hold = True, True
    tutor.broker.issue(ROLLOUT, 1, version="a@v1")
    tutor.turn()
    assert tutor.engine.started.wait(9)
    tutor.broker.issue(FEEDBACK, 2)
    assert not [each for each in tutor.turn(3) if isinstance(each, JobStarted)]
    tutor.engine.go.set()
    ended: list[str] = []
    while len(ended) < 3:
        ended += [each.key for each in tutor.turn() if isinstance(each, JobDone | JobStarted)]
    assert ended == ["r1.a.s1.p.rollout.done", "r1.a.s2.p.feedback.started.1", "r1.a.s2.p.feedback.done"]
