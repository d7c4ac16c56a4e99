"""Tokens by what a trace holds of them: the same figure is always the same colour."""

import math
from typing import get_args

import pytest

from services.inspector.web.colouring import MEASURES, Colour, measures_of
from shared.contracts.traces import TokenTrace, heat
from tests.fakes.traces import trace_token


def test_every_colour_has_its_measure_in_six_steps() -> None:
    assert tuple(MEASURES) == get_args(Colour)
    assert {len(measure.steps) for measure in MEASURES.values()} == {6}


@pytest.mark.parametrize("nats", [0.0, 0.009, 0.01, 0.3, 0.99, 1.0, 7.0])
def test_divergence_has_the_steps_of_every_heat_map(nats: float) -> None:
    token = trace_token("x").model_copy(update={"divergence": nats})
    assert MEASURES["divergence"].step(token) == heat(nats)


@pytest.mark.parametrize(
    ("colour", "changes", "step"),
    [
        ("weight", {"weight": 1.0}, 0),
        ("weight", {"weight": math.exp(0.5)}, 4),
        ("weight", {"weight": math.exp(-0.5)}, 4),
        ("weight", {"weight": 0.0}, 5),
        ("entropy", {"student_entropy": 0.0}, 0),
        ("entropy", {"student_entropy": 0.7}, 3),
        ("student", {"student_logprob": -0.05}, 0),
        ("student", {"student_logprob": -2.0}, 3),
        ("teacher", {"teacher_logprob": -9.0}, 5),
    ],
)
def test_a_token_is_the_stronger_the_further_it_is_from_what_is_usual(
    colour: Colour, changes: dict[str, float], step: int
) -> None:
    assert MEASURES[colour].step(trace_token("x").model_copy(update=changes)) == step


def test_a_trace_without_entropy_is_read_and_coloured_by_the_rest() -> None:
    whole = trace_token("x")
    older = TokenTrace.model_validate_json(whole.model_dump_json(exclude={"student_entropy"}))
    assert older.student_entropy is None
    assert tuple(measures_of([whole, whole])) == get_args(Colour)
    assert tuple(measures_of([whole, older])) == ("divergence", "weight", "student", "teacher")
