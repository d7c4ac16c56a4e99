"""The evaluator of solution expressions."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.problems.kinds import evaluate


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2 * 7 + 2", 16),
        ("14 - 3 - 2", 9),
        ("7 / 2", Fraction(7, 2)),
        ("-3 + 1", -2),
        ("2 * (3 + 4)", 14),
        (" 5 ", 5),
    ],
)
def test_values(expression: str, value: Fraction | int) -> None:
    assert evaluate(expression) == value


@pytest.mark.parametrize("expression", ["", "2 *", "a + 1", "2.5 + 1", "2 ** 8", "f(1)", "True + 1", "1 if 2 else 3"])
def test_anything_else_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        evaluate(expression)


@given(st.integers(0, 99), st.integers(0, 99), st.integers(1, 99))
def test_precedence(a: int, b: int, c: int) -> None:
    assert evaluate(f"{a} - {b} * {c}") == a - b * c
    assert evaluate(f"{a} / {c} + {b}") == Fraction(a, c) + b
