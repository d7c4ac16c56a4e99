"""The numbers of a whole run's events, and where on which axis they stand."""

from opcod.tracking.figures import figures
from shared.contracts.events import UNSTAMPED, Event, GateDecided
from tests.fakes.final_state import gate_of_three


def test_figures_are_numbers_under_a_students_or_the_gates_name(log: list[Event]) -> None:
    found = [found for event in log if (found := figures(event)) is not None]
    names = {name for each in found for name in each.values}
    assert {"a/loss", "b/grad_norm", "a/mean_reward", "gate/a/gap", "gate/b/cognizant"} <= names
    assert any(name.startswith("a/revised_") for name in names)
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
