"""States and gates that were written with the one tutor that a student of two has are read as what they mean."""

from typing import Any

import pytest

from shared.contracts.run import GateDecision, PhaseState
from tests.fakes.final_state import gate_of_three


def written(**step: Any) -> dict[str, Any]:
    groups = [{"problem_id": "p1", "tutored": True}, {"problem_id": "p2", "tutored": False}]
    opened = {"step": 3, "base_version": "a@v2", "groups": groups, "opened_at": 1.0, "mark": 1.0}
    return {
        "student": "a",
        "tutor": "b",
        "tutor_version": "b@v2",
        "first_step": 3,
        "steps": 2,
        "step": opened | step,
        "open_revisions": [{"job_id": "j", "step": 3, "problem_id": "p1", "version": "a@v2"}],
    }


def test_the_tutor_of_a_phase_goes_to_its_groups_and_revisions() -> None:
    phase = PhaseState.model_validate(written())
    assert (phase.tutors, phase.peer) == ({"b": "b@v2"}, "b")
    assert phase.step is not None and [group.tutor for group in phase.step.groups] == ["b", None]
    assert phase.step.tutored and phase.open_revisions[0].tutor == "b"
    assert PhaseState.model_validate_json(phase.model_dump_json()) == phase


def test_a_phase_without_an_open_step_is_read_too() -> None:
    phase = PhaseState.model_validate(written() | {"step": None, "open_revisions": []})
    assert phase.step is None and phase.tutors == {"b": "b@v2"}


def test_a_gate_of_two_is_that_of_the_pair() -> None:
    gate = GateDecision.model_validate(
        {
            "round": 1,
            "scores": {"a": {"x": 0.5}, "b": {"x": 0.25}},
            "gaps": {"a": 0.25, "b": 0.125},
            "gap_intervals": {"a": [0.0, 0.5], "b": [0.1, 0.2]},
            "cognizant": {"a": False, "b": True},
            "mode": "cognizance",
            "tau": 0.2,
        }
    )
    assert (gate.pair("b", "a").gap, gate.pair("b", "a").interval, gate.pair("b", "a").cognizant) == (
        0.125, (0.1, 0.2), True
    )  # fmt: skip
    assert not gate.pair("a", "b").cognizant
    with pytest.raises(KeyError, match="no gate of tutor c to student a"):
        gate.pair("c", "a")
    assert {name: pair.gap for name, pair in gate.named_pairs().items()} == {"a": 0.25, "b": 0.125}


def test_pairs_of_three_are_named_by_both() -> None:
    gate = gate_of_three()
    assert list(gate.named_pairs()) == ["a to b", "a to c", "b to a", "b to c", "c to a", "c to b"]
    assert gate.named_pairs("-")["c-a"] == gate.pair("c", "a")
