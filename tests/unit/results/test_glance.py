"""A run in a few words: where it is, how long it has to go at its own pace, what it scored last, what is wrong."""

from typing import Any

import pytest

from shared.config.settings import RunSection
from shared.contracts.diagnostics import Alarm, AlarmWatch, RevisionCount, Silenced
from shared.contracts.run import EvalState, GateDecision, JobState, JobStatus, RunState, Split, Status, Tally
from shared.results.glance import Glance, duration, glance
from tests.fakes.final_state import AFTER, BEFORE, final_state, gate_of_three, score

RUN = RunSection(rounds=4, steps_per_round=5)
STUDENTS = ("a", "b")


def begun(status: Status = Status.TRAINING, **changes: Any) -> RunState:
    """In its second round: 100 s of training for 10 steps, 32 s of evaluation for 128 samples."""
    scores = [score(student, 1, BEFORE, split) for split in Split for student in STUDENTS]
    fields: dict[str, Any] = {
        "status": status,
        "round": 2,
        "steps": {"a": 5, "b": 5},
        "scores": scores,
        "gates": [gate(1), gate(2)],
        "tallies": {},
        "status_seconds": {"VALIDATING": 32.0, "TRAINING": 60.0},
        "status_since": 1000.0,
        "at": 1040.0,
    }
    return final_state(**(fields | changes))


def gate(round_: int, **changes: Any) -> GateDecision:
    return final_state().gates[0].model_copy(update={"round": round_, **changes})


def looked(state: RunState, *, training: bool = True, dead_letters: int = 0) -> Glance:
    return glance(state, RUN, training=training, dead_letters=dead_letters)


def test_the_time_to_go_is_at_the_pace_of_steps_and_of_samples() -> None:
    found = looked(begun())
    steps_left, s_of_a_step = 30, 10.0
    samples_left, s_of_a_sample = 3 * 64 + 64, 32 / 128
    assert found.remaining_s == pytest.approx(steps_left * s_of_a_step + samples_left * s_of_a_sample)
    assert (found.where, found.to_go) == ("Training, round 2 of 4; steps done of 20: a 5, b 5", "about 6 min to go")
    assert found.share == 0.25


def test_what_is_done_of_an_evaluation_is_not_to_go() -> None:
    chunks = [JobState(status=JobStatus.DONE), JobState()]
    half = EvalState(
        student="a",
        version="a@v5",
        split=Split.VALIDATION,
        round=2,
        samples=4,
        chunks=chunks,
        correct={f"p{number}": 1 for number in range(4)},
    )
    state = begun(Status.VALIDATING, evals=[half], gates=[gate(1)])
    found = looked(state)
    assert found.where == "Validating, round 2 of 4; 1 of 2 parts"
    training_s = 30 * 6.0
    samples_left, s_of_a_sample = 4 * 64 + 64 - 16, (32 + 40) / (128 + 16)
    assert found.remaining_s == pytest.approx(training_s + samples_left * s_of_a_sample)


@pytest.mark.parametrize(
    ("state", "training", "where"),
    [
        (begun(steps={"a": 0, "b": 0}), True, "Training, round 2 of 4; steps done of 20: a 0, b 0"),
        (begun(), False, "Nobody trains it now; Training, round 2 of 4; steps done of 20: a 5, b 5"),
        (begun(Status.DONE), True, "Done, 4 rounds"),
        (begun(Status.FAILED), False, "Failed, round 2 of 4"),
    ],
)
def test_where_nothing_can_be_said_of_the_time_nothing_is(state: RunState, training: bool, where: str) -> None:
    found = looked(state, training=training)
    assert (found.where, found.remaining_s, found.to_go) == (where, None, None)


def test_the_latest_evaluation_of_both_with_the_change_since_the_first() -> None:
    assert looked(begun(scores=[])).latest is None
    first = [score(student, 1, BEFORE, Split.VALIDATION) for student in STUDENTS]
    assert looked(begun(scores=first)).latest == (
        "Latest validation of round 1: a@v1 physics 50.0 %, chemistry 25.0 %; b@v1 physics 50.0 %, chemistry 25.0 %"
    )
    later = [*first, score("a", 2, AFTER, Split.VALIDATION), score("b", 2, BEFORE, Split.VALIDATION)]
    assert looked(begun(scores=later)).latest == (
        "Latest validation of round 2: a@v2 physics 75.0 % (+25.0), chemistry 50.0 % (+25.0); "
        "b@v2 physics 50.0 % (+0.0), chemistry 25.0 % (+0.0)"
    )


def test_whether_feedback_helps_is_told_by_the_revisions_that_saw_it() -> None:
    def counted(told: bool, **changes: int) -> RevisionCount:
        return RevisionCount(round=1, tutor="b", told=told, wrong_rollouts=3, **changes)

    assert looked(begun()).helped is None
    unseen = counted(False, kept_right=5, broke=5, fixed=5)
    assert looked(begun(tallies={"a": Tally(revisions=[unseen])})).helped is None
    seen = [counted(True, kept_right=8, broke=1, fixed=2, kept_wrong=1), counted(True, kept_right=1), unseen]
    found = looked(begun(tallies={"b": Tally(revisions=[counted(True, fixed=4)]), "a": Tally(revisions=seen)}))
    assert found.helped == (
        "Revisions with feedback: a fixed 2 of 3 wrong answers, broke 1 of 10 right ones; "
        "b fixed 4 of 4 wrong answers, broke 0 of 0 right ones"
    )
    assert found.helped in found.lines


TUTORS = "Tutors in round 2, by a gap of at most 0.2"


@pytest.mark.parametrize(
    ("state", "tutors"),
    [
        (begun(), f"{TUTORS}: a ← b 0.125; b ← nobody (a 0.250)"),
        (
            begun(gates=[gate_of_three().model_copy(update={"round": 2})]),
            f"{TUTORS}: a ← c 0.100; b ← nobody (a 0.300); c ← nobody (a 0.400)",
        ),
        (begun(gates=[gate(2, mode="always")]), "Everybody tutors in round 2, whatever the gap"),
        (
            begun(gates=[gate(2, mode="domain_selective")]),
            f"{TUTORS}, others on problems of their own domain: a ← b 0.125; b ← nobody (a 0.250)",
        ),
        (begun(gates=[gate(2, mode="never")]), None),
        (begun(gates=[]), None),
        (begun(Status.VALIDATING), None),
        (begun(Status.DONE), None),
    ],
)
def test_who_may_tutor_whom_stands_there_while_somebody_does(state: RunState, tutors: str | None) -> None:
    found = looked(state)
    assert found.tutors == tutors
    assert (found.tutors in found.lines) == (tutors is not None)


def test_what_is_wrong_stands_there_the_gravest_first() -> None:
    assert looked(begun()).wrong == ()
    alarm = Alarm(student="b", alarm="near_zero_gradient", round=1, step=3, reason="gradient norm below 0.0001")
    measured = {"break_rate": 0.9, "low": 0.8, "chance": 0.1, "bound": 0.5, "broke": 9, "right": 10}
    told = [Silenced(round=each, step=4, tutor="a", student="b", **measured) for each in (1, 2)]
    state = begun(
        paused="student a is away",
        watches={"a": AlarmWatch(standing=["near_zero_gradient"]), "b": AlarmWatch(standing=["near_zero_gradient"])},
        alarms=[alarm],
        silenced=told,
        tallies={"a": Tally(lost_feedback={"tutor_timeout": 1}), "b": Tally(lost_feedback={"lost": 2})},
    )
    found = looked(state, dead_letters=1)
    assert found.wrong == (
        "Paused: student a is away",
        "1 dead letter; `opcod dlq` shows why",
        "Alarm, student a: near zero gradient",
        "Alarm, student b: gradient norm below 0.0001",
        "Tutor a is silenced for b this round",
        "1 feedback for student a lost",
        "2 feedbacks for student b lost",
    )
    assert found.lines[3:] == [f"! {each}" for each in found.wrong]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(10, "a minute"), (600, "10 min"), (3660, "1 h 01 min"), (7170, "2 h 00 min"), (200_000, "2 d 7 h")],
)
def test_a_duration_in_two_units(seconds: float, words: str) -> None:
    assert duration(seconds) == words
