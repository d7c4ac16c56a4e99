"""Which version tutors, and who, by settings: the tutor's source and the gate's hysteresis."""

from pathlib import Path

import pytest

from services.broker.commands import IssueFeedback, SealBatch, Serve
from services.broker.gate import decide
from services.broker.sealing import adopt
from shared.blobs.local import LocalStore
from shared.contracts.events import FeedbackGiven
from shared.contracts.run import Score, Split, Status
from tests.fakes.broker import RUN, BrokerBench
from tests.fakes.world import DOMAINS, World, small_plan

LATEST = ("run.schedule=sequential", "gate.tutor_source=latest")


def test_the_latest_tutor_of_the_second_phase_is_the_student_just_trained() -> None:
    world = World(small_plan(parallel=False, latest_tutor=True))
    world.start()
    assert world.finish().status is Status.DONE
    asked = {(c.round, c.tutor, c.tutor_version) for c in world.of(IssueFeedback)}  # type: ignore[union-attr]
    assert asked == {(1, "b", "b@v0"), (1, "a", "a@v2"), (2, "b", "b@v2"), (2, "a", "a@v4")}


def test_a_tutor_is_served_before_it_is_asked_and_as_long_as_it_may_be() -> None:
    world = World(small_plan(parallel=False, latest_tutor=True, rounds=1))
    world.start()
    world.finish()
    served: set[str] = set()
    for command in world.commands:
        match command:
            case Serve(student="a"):
                served = set(command.versions)
            case IssueFeedback(tutor="a"):
                assert command.tutor_version in served
            case SealBatch(student="b"):
                assert "a@v2" in served


def test_every_feedback_and_every_batch_names_the_latest_tutor(run_dir: Path) -> None:
    bench = BrokerBench(run_dir, LATEST)
    bench.finish()
    told = {(e.tutor, e.tutor_version) for e in bench.events("feedback") if isinstance(e, FeedbackGiven)}
    assert told == {("b", "b@v0"), ("a", "a@v2")}
    for student, version in (("a", "b@v0"), ("b", "a@v2")):
        for step in (1, 2):
            sealed = adopt(LocalStore(run_dir), student, step, RUN)
            assert sealed is not None
            assert sealed.manifest.tutor_version == version


def test_a_restart_does_not_change_the_latest_tutor(run_dir: Path) -> None:
    bench = BrokerBench(run_dir, LATEST)
    bench.run(lambda state: state.steps == {"a": 2, "b": 1})
    bench.start()
    bench.finish()
    assert {e.tutor_version for e in bench.events("feedback") if isinstance(e, FeedbackGiven) and e.tutor == "a"} == {
        "a@v2"
    }


@pytest.mark.parametrize(
    ("gap", "was", "may"),
    [
        (25, None, False),
        (25, True, True),
        (30, True, True),
        (31, True, False),
        (20, None, True),
        (20, False, False),
        (10, False, True),
        (11, False, False),
    ],
)
def test_hysteresis_moves_the_threshold_away_from_where_a_student_stands(gap: int, was: bool | None, may: bool) -> None:
    plan = small_plan(tau=0.2, hysteresis=0.1)
    scores = [scored("a", {DOMAINS[0]: 100, DOMAINS[1]: 100 - gap}), scored("b", dict.fromkeys(DOMAINS, 100))]
    last = decide(plan, scores, round_=1)
    last.cognizant["a"] = bool(was)
    decision = decide(plan, scores, round_=2, last=None if was is None else last)
    assert decision.cognizant["a"] is may
    assert decision.hysteresis == 0.1


@pytest.mark.parametrize(("hysteresis", "speaks"), [(0.0, {1}), (0.1, {1, 2})])
def test_a_round_s_gate_knows_that_of_the_round_before(hysteresis: float, speaks: set[int]) -> None:
    world = World(small_plan(hysteresis=hysteresis), weak=4)
    world.start()
    while world.state.round == 1:
        world.step()
    world.pending.clear()
    world.weak = 3
    for student in "ab":
        for command in world.commands[:]:
            if getattr(command, "split", None) is Split.VALIDATION and (command.round, command.student) == (2, student):  # type: ignore[union-attr]
                world.pending.append(world._evaluated(command))  # type: ignore[arg-type]
    world.finish()
    assert {c.round for c in world.of(IssueFeedback)} == speaks  # type: ignore[union-attr]


def scored(student: str, correct: dict[str, int]) -> Score:
    return Score(
        student=student,
        version=f"{student}@v0",
        split=Split.VALIDATION,
        round=1,
        samples=100,
        correct={domain: [count] for domain, count in correct.items()},
        truncated=0,
    )
