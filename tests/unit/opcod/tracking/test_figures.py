"""The numbers of a whole run's events, and where on which axis they stand."""

from collections import Counter

from opcod.tracking.figures import ChangedAnswers, figures
from shared.contracts.events import UNSTAMPED, Event, GateDecided, Revised
from tests.fakes.final_state import gate_of_three


def test_figures_are_numbers_under_a_students_or_the_gates_name(log: list[Event]) -> None:
    found = [found for event in log if (found := figures(event)) is not None]
    names = {name for each in found for name in each.values}
    assert {"a/loss", "b/grad_norm", "a/mean_reward", "gate/a/gap", "gate/b/cognizant"} <= names
    assert any(name.startswith("a/test/") for name in names)
    assert all(isinstance(value, float) for each in found for value in each.values.values())


def test_the_gate_of_three_has_a_gap_for_each_tutor_and_tutee() -> None:
    found = figures(GateDecided(**UNSTAMPED, decision=gate_of_three()))
    assert found is not None and len(found.values) == 1 + 2 * 6
    assert (found.values["gate/c-a/gap"], found.values["gate/c-a/cognizant"]) == (0.1, 1.0)
    assert (found.values["gate/a-c/gap"], found.values["gate/a-c/cognizant"]) == (0.4, 0.0)


def test_the_axis_comes_first_and_is_of_the_student_or_the_gate(log: list[Event]) -> None:
    for event in log:
        if (found := figures(event)) is not None:
            axis = next(iter(found.values))
            owner = axis.partition("/")[0]
            assert axis == ("gate/round" if owner == "gate" else f"{owner}/step")
            assert found.values[axis] == found.at
            assert all(name.startswith(f"{owner}/") for name in found.values)


def test_a_score_stands_at_the_step_that_made_its_version(log: list[Event]) -> None:
    steps = {event.version: event.step for event in log if event.kind == "step"}
    scored = [event for event in log if event.kind == "evaluated"]
    assert {event.version.partition("@v")[2] for event in scored} > {"0"}
    for event in scored:
        found = figures(event)
        assert found is not None and found.at == steps.get(event.version, 0)


def test_what_was_answered_again_is_counted_by_step_and_told_once_unless_more_comes(log: list[Event]) -> None:
    revised = [event for event in log if isinstance(event, Revised) and event.student == "a"]
    revised.append(revised[0].model_copy(update={"told": False}))
    again, last = ChangedAnswers(), max(event.step for event in revised)
    for event in revised:
        again.take(event)
    assert list(again.figures("b", last)) == []
    found = list(again.figures("a", last))
    counts = Counter((event.step, f"a/revised_{event.change}") for event in revised if event.told)
    told = {(each.at, name): value for each in found for name, value in each.values.items() if name != "a/step"}
    assert {of: value for of, value in told.items() if value} == counts
    assert max(counts.values()) > 1
    assert list(again.figures("a", last)) == []
    again.take(next(event for event in revised if event.told and event.step == last))
    (more,) = again.figures("a", last)
    assert sum(more.values.values()) - last == 1 + sum(n for (step, _), n in counts.items() if step == last)
