"""When what was done: bars of a run that is told event by event, at the seconds that its log says."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.contracts.events import (
    UNSTAMPED,
    BatchReady,
    Evaluated,
    Event,
    FeedbackGiven,
    GroupGraded,
    Revised,
    StatusChanged,
    StepApplied,
    VersionServing,
)
from shared.contracts.ids import version_name
from shared.results.timeline import StepTimeline, Work, WorkBar, seconds_by_lane, timeline
from tests.fakes.figures import step_metrics


def at(second: float, event: Event) -> Event:
    return event.model_copy(update={"at": second})


def of(student: str, step: int) -> dict[str, Any]:
    return {**UNSTAMPED, "student": student, "round": 1, "step": step}


def status(word: str) -> Event:
    return StatusChanged(**UNSTAMPED, status=word, round=1)


def graded(student: str, step: int, problem: str = "p1") -> Event:
    return GroupGraded(**of(student, step), problem_id=problem, domain="physics", rewards=(1.0, 0.0))


def told(student: str, step: int, tutor: str, problem: str = "p1") -> Event:
    fields = {"tutor": tutor, "tutor_version": f"{tutor}@v0", "version": f"{student}@v0", "domain": "physics"}
    texts = {"question": "?", "response": "5", "verdict": "match", "raw": None, "delivered": None}
    return FeedbackGiven(**of(student, step), **fields, **texts, problem_id=problem, sample=0, correct=True)


def revised(student: str, step: int, problem: str = "p1") -> Event:
    fields = {"before": True, "after": True, "told": True, "change": "same", "text": "5"}
    return Revised.model_validate(of(student, step) | fields | {"problem_id": problem, "sample": 0})


def sealed(student: str, step: int) -> Event:
    counts = {"samples": 2, "active_samples": 2, "kept_feedback": 1, "mean_reward": 0.5}
    return BatchReady(**of(student, step), **counts, uri="x")


def applied(student: str, step: int, seconds: float) -> Event:
    """seconds: of all of the trainer's stages together."""
    metrics = step_metrics(seconds={"teacher": seconds / 4, "student": seconds * 3 / 4})
    return StepApplied(**of(student, step), version=version_name(student, step), metrics=metrics)


def serving(student: str, step: int, replica: str = "0") -> Event:
    version = version_name(student, step)
    return VersionServing(**UNSTAMPED, student=student, replica=replica, version=version, checksum="c")


def evaluated(student: str, split: str = "validation") -> Event:
    return Evaluated(**UNSTAMPED, student=student, version="v", split=split, round=1, scores={"physics": 0.5})


STEP = [
    at(10, status("TRAINING")),
    at(14, graded("a", 1, "p1")),
    at(16, graded("a", 1, "p2")),
    at(19, told("a", 1, "b", "p1")),
    at(21, told("a", 1, "b", "p2")),
    at(22, revised("a", 1)),
    at(23, sealed("a", 1)),
    at(30, applied("a", 1, 6.0)),
    at(30.5, serving("a", 1, "0")),
    at(32, serving("a", 1, "1")),
]


def drawn(
    events: Sequence[Event], students: Sequence[str] = "ab", steps: int = 4, *, sequential: bool = False
) -> list[tuple[str, Work, int, int]]:
    found = timeline(events, students, steps=steps, sequential=sequential)
    assert found is not None
    return [(bar.lane, bar.work, int(bar.begin), int(bar.end)) for bar in found.bars]


def test_a_step_from_its_rollouts_to_its_last_replica() -> None:
    assert drawn(STEP) == [
        ("student-a", "rollout", 10, 16),
        ("student-a", "wait", 16, 19),
        ("student-a", "revise", 19, 22),
        ("student-a", "wait", 22, 30),
        ("student-a", "swap", 30, 32),
        ("student-b", "feedback", 14, 21),
        ("trainer-a", "train", 24, 30),
    ]


def test_the_next_step_opens_when_the_last_replica_serves() -> None:
    later = [at(36, graded("a", 2)), at(37, serving("a", 1, "2")), at(38, graded("a", 2, "p2"))]
    assert drawn([*STEP, *later])[4:6] == [("student-a", "swap", 30, 32), ("student-a", "rollout", 32, 38)]


def test_a_replica_that_comes_back_between_rounds_was_not_waited_for() -> None:
    assert ("student-a", "swap", 30, 32) in drawn([*STEP, at(33, status("ROUND_DONE")), at(60, serving("a", 1, "1"))])


def test_a_trainer_that_works_on_groups_as_they_come_overlaps_with_rollouts_and_begins_after_the_first() -> None:
    streamed = [at(30, applied("a", 1, 13.0)) if event.kind == "step" else event for event in STEP]
    assert ("trainer-a", "train", 17, 30) in drawn(streamed)
    streamed = [at(30, applied("a", 1, 29.0)) if event.kind == "step" else event for event in STEP]
    assert ("trainer-a", "train", 14, 30) in drawn(streamed)


def test_feedback_is_on_the_engine_of_whoever_gave_it_however_many_students_there_are() -> None:
    events = [
        at(0, status("TRAINING")),
        *(at(2, graded(student, 1)) for student in "abc"),
        at(3, graded("a", 1, "p2")),
        at(5, told("a", 1, "b")),
        at(6, told("a", 1, "c", "p2")),
        at(7, told("b", 1, "c")),
    ]
    feedback = [bar for bar in drawn(events, "abc") if bar[1] == "feedback"]
    assert feedback == [
        ("student-b", "feedback", 2, 5),
        ("student-c", "feedback", 2, 7),
        ("student-c", "feedback", 3, 6),
    ]


def test_students_are_evaluated_between_rounds_and_at_the_end() -> None:
    events = [
        *STEP,
        at(33, status("ROUND_DONE")),
        at(33, status("VALIDATING")),
        at(40, evaluated("a")),
        at(42, evaluated("b")),
        at(42, status("GATED")),
        at(50, status("FINAL_EVAL")),
        at(55, evaluated("a")),
        at(58, evaluated("a", "test")),
    ]
    evaluations = [bar for bar in drawn(events) if bar[1] == "evaluate"]
    assert evaluations == [
        ("student-a", "evaluate", 33, 40),
        ("student-a", "evaluate", 50, 58),
        ("student-b", "evaluate", 33, 42),
    ]


def test_a_pause_begins_nothing_anew() -> None:
    paused, resumed = status("TRAINING"), at(13, status("TRAINING"))
    assert ("student-a", "rollout", 10, 16) in drawn([STEP[0], at(11, paused), resumed, *STEP[1:]])
    # A replica that loads the version of a step that is over; the next one has not begun.
    assert ("student-a", "swap", 30, 32) in drawn([*STEP[:-1], at(31, paused), STEP[-1]])
    evaluation = [at(33, status("VALIDATING")), at(35, evaluated("a")), at(36, status("VALIDATING"))]
    over = [at(40, evaluated("a", "test")), at(41, evaluated("b"))]
    assert {bar for bar in drawn([*STEP, *evaluation, *over]) if bar[1] == "evaluate"} == {
        ("student-a", "evaluate", 33, 40),
        ("student-b", "evaluate", 33, 41),
    }


def test_only_the_newest_steps_are_drawn_and_what_began_before_is_cut() -> None:
    events: list[Event] = [at(0, status("TRAINING"))]
    for step in range(1, 6):
        begun = 10 * step
        events += [
            at(begun, graded("a", step)),
            at(begun + 1, sealed("a", step)),
            at(begun + 5, applied("a", step, 4.0)),
            at(begun + 8, serving("a", step)),
        ]
    found = timeline(events, ["a"], steps=2)
    assert found is not None and (found.begin, found.end) == (35, 58)
    assert [(bar.work, bar.begin, bar.step) for bar in found.of_lane("student-a")][:2] == [
        ("swap", 35, 3),
        ("rollout", 38, 4),
    ]
    assert {bar.step for bar in found.of_lane("trainer-a")} == {4, 5, None}


@pytest.mark.parametrize(("last", "opened"), [(serving("a", 1, "1"), 32), (revised("a", 1), 34)])
def test_where_students_take_turns_the_second_begins_when_the_first_is_done(last: Event, opened: int) -> None:
    events = [*STEP, at(opened, last), at(40, graded("b", 1)), at(41, sealed("b", 1)), at(45, applied("b", 1, 2.0))]
    assert ("student-b", "rollout", opened, 40) in drawn(events, sequential=True)
    assert ("student-b", "rollout", 10, 40) in drawn(events), "both at once"
    again = [at(46, serving("b", 1)), at(47, status("ROUND_DONE")), at(50, status("TRAINING")), at(53, graded("a", 2))]
    assert ("student-a", "rollout", 50, 53) in drawn([*events, *again], sequential=True)


def test_where_students_take_turns_the_newest_steps_of_each_are_drawn() -> None:
    events: list[Event] = [at(0, status("TRAINING"))]
    for number, (student, step) in enumerate([("a", 1), ("a", 2), ("a", 3), ("b", 1), ("b", 2), ("b", 3)], start=1):
        begun = 10 * number
        events += [
            at(begun, graded(student, step)),
            at(begun + 1, sealed(student, step)),
            at(begun + 5, applied(student, step, 4.0)),
            at(begun + 8, serving(student, step)),
        ]
    found = timeline(events, "ab", steps=1, sequential=True)
    assert found is not None and found.begin == 25
    steps = [(bar.student, bar.step) for bar in found.bars if bar.work == "train"]
    assert steps == [("a", 3), ("b", 1), ("b", 2), ("b", 3)]
    # Of a student that has just begun, from its first step on.
    found = timeline(events[:17], "ab", steps=2, sequential=True)
    assert found is not None and found.begin == 15


@pytest.mark.parametrize("events", [[], [at(1, status("TRAINING")), at(2, serving("a", 0))], [at(3, evaluated("a"))]])
def test_before_anything_is_done_there_is_nothing_to_draw(events: list[Event]) -> None:
    assert timeline(events, "ab", steps=4) is None


def test_seconds_of_bars_at_once_are_counted_once() -> None:
    bars = [("rollout", 0.0, 4.0), ("feedback", 1.0, 3.0), ("feedback", 2.0, 6.0), ("wait", 6.0, 9.0)]
    made = [WorkBar.model_validate({"lane": "x", "work": work, "begin": b, "end": e}) for work, b, e in bars]
    [seconds] = seconds_by_lane(StepTimeline(begin=0, end=9, lanes=("x",), bars=tuple(made))).values()
    assert {work: s for work, s in seconds.items() if s} == {"rollout": 4.0, "feedback": 5.0, "wait": 3.0}


KINDS = st.one_of(
    st.builds(graded, st.sampled_from("abc"), st.integers(1, 3), st.sampled_from(["p1", "p2"])),
    st.builds(told, st.sampled_from("abc"), st.integers(1, 3), st.sampled_from("abc")),
    st.builds(revised, st.sampled_from("abc"), st.integers(1, 3)),
    st.builds(sealed, st.sampled_from("abc"), st.integers(1, 3)),
    st.builds(applied, st.sampled_from("abc"), st.integers(1, 3), st.floats(0, 50)),
    st.builds(serving, st.sampled_from("abc"), st.integers(0, 3), st.sampled_from("01")),
    st.builds(status, st.sampled_from(["TRAINING", "ROUND_DONE", "VALIDATING", "GATED"])),
    st.builds(evaluated, st.sampled_from("abc")),
)


@given(st.lists(st.tuples(st.floats(0, 100), KINDS), max_size=40))
def test_whatever_the_log_says_bars_lie_on_the_axis_and_waits_between_them(log: list[tuple[float, Event]]) -> None:
    # Clocks of several machines: the order of the log is not that of its times.
    found = timeline([at(second, event) for second, event in log], "ab", steps=2)
    for bar in found.bars if found else ():
        assert found is not None and bar.lane in found.lanes
        assert found.begin <= bar.begin < bar.end <= found.end
        if bar.work == "wait":
            others = [other for other in found.of_lane(bar.lane) if other.work != "wait"]
            assert any(other.end == bar.begin for other in others)
            assert any(other.begin == bar.end for other in others)
            assert all(other.end <= bar.begin or other.begin >= bar.end for other in others)
