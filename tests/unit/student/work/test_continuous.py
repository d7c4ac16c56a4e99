"""The engine's thread where requests join those that run: side by side, each ending once, lost and made again."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from services.student.engines.port import EngineState, Generation, GenerationRequest
from services.student.http.interactive import Inquiry
from services.student.work.calls import EngineCall, EngineCalls, Running
from services.student.work.worker import IDLE_S, MAX_TRIES, EngineDeadError
from shared.bus.keys import STUDENTS, jobs
from shared.contracts.envelope import Message
from shared.contracts.ids import seed_of
from shared.contracts.jobs import Job, JobDone, JobKind
from shared.contracts.messages import ChatMessage, Sampling
from shared.errors import UnavailableError
from tests.fakes.engine import POISON, FakeEngine
from tests.fakes.student import HandClock, StudentBench, publish_version
from tests.fakes.waiting import WAIT_S

ROLLOUT, FEEDBACK = JobKind.ROLLOUT, JobKind.FEEDBACK


class ContinuousBench(StudentBench):
    """Turns until something has come about, since generations end in threads of their own."""

    def __init__(self, run_dir: Path, slots: int = 8) -> None:
        super().__init__(run_dir, slots=slots, continuous=True)
        self.came: list[JobDone] = []
        self._people = ThreadPoolExecutor(4)

    def turn(self, times: int = 1) -> list[Message]:
        if self.server.down:
            self.worker.turn()
            return []
        messages = super().turn(times)
        self.came += [message for message in messages if isinstance(message, JobDone)]
        return messages

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline, "it did not come about"
            self.turn()

    def ended(self, count: int) -> list[JobDone]:
        self.until(lambda: len(self.came) >= count)
        return self.came

    def ask(self, version: str = "a@v0", text: str = "?") -> "Future[list[Generation]]":
        """A person's question, under way when this returns."""
        sampling = Sampling(temperature=1, top_p=1, max_tokens=4)
        asked = GenerationRequest(version, (ChatMessage(role="user", content=text),), sampling, 1)
        future = self._people.submit(lambda: asyncio.run(self.interactive.ask(version, [asked], timeout_s=WAIT_S)))
        self.until(lambda: bool(self.interactive.versions()) or future.done())
        return future

    def close(self) -> None:
        self.engine.go.set()
        super().close()
        self._people.shutdown()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[ContinuousBench]:
    bench = ContinuousBench(tmp_path)
    bench.turn()
    yield bench
    bench.close()


def running(bench: ContinuousBench, count: int) -> None:
    bench.until(lambda: len(bench.engine.calls) >= count)


def lose(bench: ContinuousBench, tries: int) -> None:
    """The engine is there, and lost under its call number `tries`; it gets no more meanwhile."""
    bench.engine.state = EngineState.READY
    bench.until(lambda: bench.engine.state is EngineState.SUSPECT)
    bench.turn(5)
    assert len(bench.engine.calls) == tries


def test_jobs_of_two_versions_and_a_person_run_at_once(bench: ContinuousBench, tmp_path: Path) -> None:
    publish_version(tmp_path, 1)
    bench.broker.serve("a@v1", "a@v0")
    bench.engine.hold = True
    bench.broker.issue(ROLLOUT, 1, version="a@v1")
    running(bench, 1)
    bench.broker.issue(FEEDBACK, 2, version="a@v0")
    running(bench, 2)
    person = bench.ask("a@v1")
    running(bench, 3)
    assert bench.came == [] and not person.done()
    bench.engine.go.set()
    assert {done.job_id for done in bench.ended(2)} == {"r1.a.s1.p.rollout", "r1.a.s2.p.feedback"}
    bench.until(person.done)
    assert person.result()[0].text == "a@v1:1"


def test_full_slots_leave_room_for_feedback_alone(tmp_path: Path) -> None:
    bench = ContinuousBench(tmp_path, slots=4)
    bench.turn()
    bench.engine.hold = True
    for number in (1, 2, 3):
        bench.broker.issue(ROLLOUT, number, samples=2)
    running(bench, 2)
    bench.turn(3)
    assert len(bench.engine.calls) == 2
    bench.broker.issue(FEEDBACK, 4, samples=2)
    running(bench, 3)
    bench.engine.go.set()
    assert len(bench.ended(4)) == 4
    bench.close()


def test_a_version_that_runs_is_not_unloaded(bench: ContinuousBench, tmp_path: Path) -> None:
    publish_version(tmp_path, 1)
    bench.engine.hold = True
    bench.broker.issue(ROLLOUT, 1)
    running(bench, 1)
    person = bench.ask("a@v0")
    running(bench, 2)
    bench.broker.serve("a@v1")
    bench.turn(2)
    assert set(bench.engine.versions()) == {"a@v0", "a@v1"}
    bench.engine.go.set()
    bench.ended(1)
    bench.until(person.done)
    bench.turn(2)
    assert set(bench.engine.versions()) == {"a@v1"}


def test_a_lost_lease_ends_its_own_job_and_no_other(bench: ContinuousBench) -> None:
    """The job is not really another's here, so it comes back and is done at the second attempt."""
    bench.engine.hold = True
    bench.broker.issue(ROLLOUT, 1)
    bench.broker.issue(ROLLOUT, 2)
    running(bench, 2)
    lost = next(held for held in bench.worker.intake.held if held.job.step == 1)
    lost.lost.set()
    bench.running.check(overdue=False)
    bench.until(lambda: lost not in bench.worker.intake.held)
    bench.engine.go.set()
    assert {done.job_id for done in bench.ended(2)} == {"r1.a.s1.p.rollout", "r1.a.s2.p.rollout"}
    drawn = sorted(call[0].seed for call in bench.engine.calls)
    assert drawn == sorted([seed_of(1, 0, 0), seed_of(1, 0, 0), seed_of(2, 0, 0)])


def test_a_failing_job_takes_no_other_along(bench: ContinuousBench) -> None:
    bench.broker.issue(ROLLOUT, 1, text=POISON)
    bench.broker.issue(ROLLOUT, 2)
    outcomes = {done.job_id: (done.outcome, done.error) for done in bench.ended(2)}
    assert outcomes == {
        "r1.a.s1.p.rollout": ("failed", "RuntimeError: out of memory"),
        "r1.a.s2.p.rollout": ("ok", None),
    }


def test_work_of_a_lost_engine_waits_in_hand_and_is_made_again_with_its_seeds(bench: ContinuousBench) -> None:
    bench.engine.losses = 2
    bench.broker.issue(ROLLOUT, 1)
    (done,) = bench.ended(1)
    seeds = [[request.seed for request in call] for call in bench.engine.calls]
    assert done.outcome == "ok" and len(seeds) == 3 and seeds[0] == seeds[1] == seeds[2]


def test_a_job_under_which_the_engine_is_always_lost_fails(bench: ContinuousBench) -> None:
    """One loss takes one try: nothing starts again before the engine is known to be there."""
    bench.engine.losses, bench.engine.suspect_when_lost = 10**6, True
    bench.broker.issue(ROLLOUT, 1)
    for tries in range(1, MAX_TRIES + 1):
        assert bench.came == []
        lose(bench, tries)
    (done,) = bench.ended(1)
    assert (done.outcome, done.error) == ("failed", "EngineAwayError: lost on the way")
    assert len(bench.engine.calls) == MAX_TRIES


def test_tries_of_a_job_that_went_do_not_count_when_it_comes_again(bench: ContinuousBench) -> None:
    """It is released with its lease, and taken again as the second attempt."""
    bench.engine.losses, bench.engine.suspect_when_lost = MAX_TRIES, True
    bench.broker.issue(ROLLOUT, 1)
    for tries in range(1, MAX_TRIES):
        lose(bench, tries)
    bench.worker.intake.held[0].lost.set()
    lose(bench, MAX_TRIES)
    bench.engine.state = EngineState.READY
    assert [done.outcome for done in bench.ended(1)] == ["ok"]


def test_people_are_told_at_once_of_an_engine_that_may_be_lost(bench: ContinuousBench) -> None:
    bench.engine.losses, bench.engine.state = 1, EngineState.SUSPECT
    job = bench.broker.issue(ROLLOUT, 1)
    person = bench.ask()
    bench.until(person.done)
    with pytest.raises(UnavailableError, match="lost on the way"):
        person.result()
    assert bench.came == [] and bench.board.not_ready() is None
    bench.engine.state = EngineState.READY
    assert [done.job_id for done in bench.ended(1)] == [job.id]


def test_while_the_engine_is_away_nothing_is_taken_and_people_are_told(bench: ContinuousBench) -> None:
    bench.engine.state = EngineState.AWAY
    job: Job = bench.broker.issue(ROLLOUT, 1)
    bench.turn(2)
    assert bench.bus.queue_depth(jobs("a", ROLLOUT), STUDENTS) == (1, 0) and bench.came == []
    assert bench.board.not_ready() == "fake"
    bench.engine._versions.clear()
    person = bench.ask()
    bench.until(person.done)
    with pytest.raises(UnavailableError, match="the engine is being brought back"):
        person.result()
    bench.engine.state = EngineState.EMPTY
    loads = len(bench.engine.loads)
    bench.turn()
    assert bench.engine.loads[loads:] == ["a@v0"]
    bench.engine.state = EngineState.READY
    assert [done.job_id for done in bench.ended(1)] == [job.id]


def test_people_under_way_are_told_of_an_engine_that_dies(bench: ContinuousBench) -> None:
    bench.engine.dies_of_poison, bench.engine.hold = True, True
    job = bench.broker.issue(ROLLOUT, 1, text=POISON)
    running(bench, 1)
    person = bench.ask(text=POISON)
    running(bench, 2)
    bench.engine.go.set()
    with pytest.raises(EngineDeadError, match="the device is lost"):
        bench.until(lambda: False)
    with pytest.raises(EngineDeadError):
        person.result(WAIT_S)
    assert bench.came == [] and [held.job.id for held in bench.worker.intake.held] == [job.id]


@pytest.mark.parametrize("state", [EngineState.AWAY, EngineState.SUSPECT])
def test_it_waits_for_its_engine_without_turning_all_the_time(bench: ContinuousBench, state: EngineState) -> None:
    bench.engine.state = state
    started_s = time.monotonic()
    bench.turn(3)
    assert time.monotonic() - started_s >= 3 * IDLE_S
    bench.engine.hold = True
    person = bench.ask()
    running(bench, 1)
    assert quickest_turn_s(bench) < IDLE_S
    bench.engine.go.set()
    bench.until(person.done)
    bench.stopping.set()
    assert quickest_turn_s(bench) < IDLE_S


def quickest_turn_s(bench: ContinuousBench) -> float:
    """Of five: the machine may stand still at one or another."""

    def seconds() -> float:
        started_s = time.monotonic()
        bench.turn()
        return time.monotonic() - started_s

    return min(seconds() for _ in range(5))


def test_on_the_way_out_what_runs_may_end(bench: ContinuousBench) -> None:
    bench.engine.hold = True
    bench.broker.issue(ROLLOUT, 1)
    running(bench, 1)
    bench.stopping.set()
    draining = threading.Thread(target=bench.worker.run)
    draining.start()
    bench.engine.go.set()
    draining.join(WAIT_S)
    assert not draining.is_alive()
    assert [message.outcome for message in bench.broker.results() if isinstance(message, JobDone)] == ["ok"]


def test_while_the_bus_is_away_people_are_still_answered(bench: ContinuousBench) -> None:
    bench.server.down = True
    person = bench.ask()
    bench.until(person.done)
    assert person.result()[0].text == "a@v0:1"


def test_the_engines_seconds_are_shared_out_by_sequences() -> None:
    engine, clock = FakeEngine(), HandClock()
    engine.continuous, engine.hold = True, True
    engine._versions["a@v0"] = "b" * 64
    calls = EngineCalls(engine, Running(clock), clock)
    sampling = Sampling(temperature=1, top_p=1, max_tokens=4)
    one = GenerationRequest("a@v0", (ChatMessage(role="user", content="?"),), sampling, 1)
    calls.start([Inquiry("a@v0", (one,), threading.Event())])
    clock.now_s += 4
    calls.start([Inquiry("a@v0", (one,) * 3, threading.Event())])
    clock.now_s += 8
    engine.go.set()
    ended: list[EngineCall] = []
    while len(ended) < 2:
        ended += calls.ended(WAIT_S)
    calls.close()
    assert {call.sequences: call.seconds for call in ended} == {1: 4 + 2, 3: 6}
    assert calls.works == []
