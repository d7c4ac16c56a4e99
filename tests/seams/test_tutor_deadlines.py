"""A tutor's deadline against everything that is not the tutor's: a broker or a Redis that is away, reports that wait
by the hundred, clocks that are set. No feedback is lost by these; a tutor that is silent is given up all the same.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.broker.runner import TAKE
from shared.bus.keys import BROKER, RESULTS
from shared.contracts.jobs import JobKind
from shared.contracts.run import JobStatus, RunState, Status
from shared.method.anchoring import FB_NONE
from tests.fakes.broker import THREE, BrokerBench
from tests.unit.broker.conftest import MEMORY

TIMEOUT_S = 30.0
MANY = 66
"""Problems of a step. Both tutors owe an answer on each: 132 reports wait at once, twice as many as in a run of the
paper's size."""
FEW = 4
SIX = 6
HOURS_S = 5 * 3600.0

Break = Callable[[BrokerBench], None]


def feedback_of(state: RunState) -> list[JobStatus]:
    steps = [phase.step for phase in state.phases if phase.step is not None]
    return [group.feedback.status for step in steps for group in step.groups]


@pytest.fixture
def bench(request: pytest.FixtureRequest) -> Iterator[BrokerBench]:
    """All feedback of both first steps is begun, and the broker knows it."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as directory:
        yield begun(Path(directory), getattr(request, "param", MANY))


def begun(run_dir: Path, per_step: int, *overrides: str) -> BrokerBench:
    settings = (
        f"problems.per_step={per_step}",
        f"feedback.tutor_timeout_s={TIMEOUT_S}",
        "feedback.revise_share=0.0",
        "gate.mode=always",
        "run.steps_per_round=1",
        "rollout.samples=1",
    )
    bench = BrokerBench(run_dir, (*overrides, *settings))
    for student in bench.students.values():
        student.slow = {JobKind.FEEDBACK}
    owed = len(bench.students) * per_step
    bench.run(lambda state: feedback_of(state) == [JobStatus.STARTED] * owed)
    return bench


def end_feedback(bench: BrokerBench) -> None:
    for student in bench.students.values():
        student.end_begun()
    assert bench.workers.queue_depth(RESULTS, BROKER)[0] == 2 * bench.settings.problems.per_step


def turn_until_idle(bench: BrokerBench) -> None:
    """Until nothing waits, and a deadline after that."""
    while bench.workers.queue_depth(RESULTS, BROKER) != (0, 0):
        bench.turn()
    bench.clock.now_s += 2.0
    bench.turn()


def lost(bench: BrokerBench) -> dict[str, dict[str, int]]:
    return {name: tally.lost_feedback for name, tally in bench.state.tallies.items()}


def assert_nothing_lost(bench: BrokerBench) -> None:
    for student in bench.students.values():
        student.slow = set()
    bench.finish()
    assert bench.state.status is Status.DONE
    assert lost(bench) == {"a": {}, "b": {}}
    for tally in bench.state.tallies.values():
        assert sum(tally.verdicts[1].values()) == bench.settings.problems.per_step
        assert FB_NONE not in tally.verdicts[1]


def restarted(bench: BrokerBench) -> None:
    bench.start()


def restarted_with_the_clock_set_back(bench: BrokerBench) -> None:
    bench.clock.set_by_s = -HOURS_S
    bench.start()


@pytest.mark.parametrize("again", [restarted, restarted_with_the_clock_set_back])
def test_a_broker_that_was_away_longer_than_the_deadline_reads_what_waits(bench: BrokerBench, again: Break) -> None:
    end_feedback(bench)
    bench.clock.now_s += 20 * TIMEOUT_S
    again(bench)
    turn_until_idle(bench)
    assert_nothing_lost(bench)


def test_a_broker_that_was_away_waits_for_tutors_that_answer_after_its_return(bench: BrokerBench) -> None:
    bench.clock.now_s += 20 * TIMEOUT_S
    bench.start()
    turn_until_idle(bench)
    end_feedback(bench)
    turn_until_idle(bench)
    assert_nothing_lost(bench)


def test_a_redis_that_was_away_longer_than_the_deadline_costs_no_feedback(bench: BrokerBench) -> None:
    """The tutors answered meanwhile, and their reports come some seconds after Redis does."""
    bench.server.down = True
    for _ in range(2):
        bench.clock.now_s += 10 * TIMEOUT_S
        bench.turn()
        assert bench.runner.problem is not None
    bench.server.down = False
    turn_until_idle(bench)
    assert bench.runner.problem is None
    end_feedback(bench)
    turn_until_idle(bench)
    assert_nothing_lost(bench)


def test_reports_that_wait_are_read_before_any_feedback_is_given_up(bench: BrokerBench) -> None:
    """The broker is slower than its tutors: the deadline passes while their reports lie there."""
    end_feedback(bench)
    assert 2 * MANY > 2 * TAKE
    bench.clock.now_s += 2 * TIMEOUT_S
    while bench.workers.queue_depth(RESULTS, BROKER)[0] > 0:
        bench.turn()
        bench.clock.now_s += 2.0
        assert lost(bench) == {"a": {}, "b": {}}
    assert_nothing_lost(bench)


@pytest.mark.parametrize("bench", [FEW], indirect=True)
@pytest.mark.parametrize("jump_s", [HOURS_S, -HOURS_S], ids=["ahead", "back"])
def test_a_clock_that_is_set_makes_no_tutor_late(bench: BrokerBench, jump_s: float) -> None:
    bench.clock.set_by_s = jump_s
    bench.clock.now_s += TIMEOUT_S / 2
    turn_until_idle(bench)
    assert lost(bench) == {"a": {}, "b": {}}
    end_feedback(bench)
    turn_until_idle(bench)
    assert_nothing_lost(bench)
    spans = [seconds for tally in bench.state.tallies.values() for seconds in tally.stage_seconds.values()]
    assert all(0 <= seconds < 10 * TIMEOUT_S for seconds in spans)


@pytest.mark.parametrize("bench", [FEW], indirect=True)
@pytest.mark.parametrize("jump_s", [HOURS_S, 0.0, -HOURS_S], ids=["ahead", "right", "back"])
@pytest.mark.parametrize("again", [restarted, None], ids=["restarted", "same process"])
def test_a_silent_tutor_is_given_up_whatever_the_clock_says(
    bench: BrokerBench, jump_s: float, again: Break | None
) -> None:
    bench.clock.set_by_s = jump_s
    if again is not None:
        again(bench)
    turn_until_idle(bench)
    bench.clock.now_s += TIMEOUT_S
    turn_until_idle(bench)
    assert lost(bench) == {name: {"tutor_timeout": FEW} for name in "ab"}


def test_of_several_tutors_only_the_silent_one_is_given_up(tmp_path: Path) -> None:
    """What the others say about the same step's problems is delivered, and each tutee is told apart."""
    bench = begun(tmp_path, SIX, *THREE)
    state = bench.state
    owed = {
        phase.student: sum(group.tutor == "b" for group in phase.step.groups)
        for phase in state.phases
        if phase.step is not None
    }
    assert owed["b"] == 0 < sum(owed.values()) < 2 * SIX, "b is the tutor of some, and others of the rest"
    for name in ("a", "c"):
        bench.students[name].end_begun()
    turn_until_idle(bench)
    assert lost(bench) == {"a": {}, "b": {}, "c": {}}
    bench.clock.now_s += TIMEOUT_S
    turn_until_idle(bench)
    assert lost(bench) == {name: {"tutor_timeout": count} if count else {} for name, count in owed.items()}
    for student in bench.students.values():
        student.slow = set()
    bench.finish()
    for name, tally in bench.state.tallies.items():
        assert tally.verdicts[1].get(FB_NONE, 0) == owed[name]
        assert sum(tally.verdicts[1].values()) == SIX
