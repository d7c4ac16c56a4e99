"""Exact values of the small expressions in solutions, such as `2 * 7 + 2`."""

import ast
import operator
from collections.abc import Callable
from fractions import Fraction

_OPERATIONS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def evaluate(expression: str) -> Fraction:
    """The value of an expression of integers, `+ - * /` and brackets, with the usual precedence.

    Raises ValueError for anything else, ZeroDivisionError for a division by zero.
    """
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except SyntaxError as error:
        raise ValueError(f"expected an expression such as '2 * 7 + 2', got {expression!r}") from error
    return _value(tree.body, expression)


def _value(node: ast.expr, expression: str) -> Fraction:
    match node:
        case ast.Constant(value=int() as number) if not isinstance(number, bool):
            return Fraction(number)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, expression)
        case ast.BinOp(left=left, op=operation, right=right) if type(operation) in _OPERATIONS:
            return _OPERATIONS[type(operation)](_value(left, expression), _value(right, expression))
    raise ValueError(f"expected only integers, + - * / and brackets, got {ast.unparse(node)!r} in {expression!r}")
