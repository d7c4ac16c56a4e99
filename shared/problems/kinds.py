"""A kind of generated problem, and one drawing of it.

What always holds for a drawing: its answer is a positive integer of at most `MAX_ANSWER`, and its solution is
one line, `<quantity> = <formula> = <numbers> = <result>`, where numbers is the formula with every name replaced.
"""

import ast
import operator
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from random import Random

from shared.errors import ProblemSetError
from shared.problems.problem import Problem

_OPERATIONS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


@lru_cache(maxsize=1 << 16)
def evaluate(expression: str) -> Fraction:
    """The value of an expression of integers, `+ - * /` and brackets, with the usual precedence.

    Raises ValueError for anything else, ZeroDivisionError for a division by zero.
    """
    try:
        # Parsed and walked, never evaluated: eval would run whatever stands there.
        tree = ast.parse(expression.strip(), mode="eval")
    except SyntaxError as error:
        raise ValueError(f"expected an expression such as '2 * 7 + 2', got {expression!r}") from error
    return _value(tree.body, expression)


def _value(node: ast.expr, expression: str) -> Fraction:
    match node:
        # True is an int to Python.
        case ast.Constant(value=int() as number) if not isinstance(number, bool):
            return Fraction(number)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, expression)
        case ast.BinOp(left=left, op=operation, right=right) if type(operation) in _OPERATIONS:
            return _OPERATIONS[type(operation)](_value(left, expression), _value(right, expression))
    raise ValueError(f"expected only integers, + - * / and brackets, got {ast.unparse(node)!r} in {expression!r}")


MAX_ANSWER = 5000

_DRAWS_PER_PROBLEM = 1000


@dataclass(frozen=True)
class Kind:
    """One kind of problem, as data.

    `numbers` gives the range of every name in `formula`; `templates` ask the question with `{name}` for each
    number and optionally `{thing}`, one of `things`; `concepts` are words of which every template has at least
    one, for a feedback to be anchored in; `wrong_formulas` are what somebody who misremembers would write;
    `guessable` is False when the formula carries a constant that the question does not tell.
    """

    name: str
    quantity: str
    formula: str
    numbers: Mapping[str, range]
    templates: tuple[str, ...]
    things: tuple[str, ...]
    concepts: tuple[str, ...]
    wrong_formulas: tuple[str, ...]
    guessable: bool = True


@dataclass(frozen=True)
class Drawn:
    """A kind with its numbers and wording chosen."""

    kind: Kind
    values: Mapping[str, int]
    question: str

    @property
    def numbers(self) -> str:
        """The formula with its numbers, such as `2 * 7 + 2`."""
        return substitute(self.kind.formula, self.values)

    @property
    def answer(self) -> str:
        """The integer result, as text."""
        return str(evaluate(self.numbers))

    @property
    def solution(self) -> str:
        """The worked line."""
        return solution_line(self.kind.quantity, self.kind.formula, self.numbers, self.answer)

    @property
    def concept(self) -> str:
        """The first of the kind's concepts that the question contains."""
        return next(word for word in self.kind.concepts if re.search(rf"\b{re.escape(word)}\b", self.question))

    def problem(self, problem_id: str, domain: str) -> Problem:
        """The drawing as a problem."""
        return Problem(problem_id, domain, self.kind.name, self.question, self.answer, self.solution)


def solution_line(quantity: str, formula: str, numbers: str, result: str) -> str:
    """The one-line shape that every solution of a generated problem has."""
    return f"{quantity} = {formula} = {numbers} = {result}"


def substitute(formula: str, values: Mapping[str, int]) -> str:
    """The formula with every name of `values` replaced by its number; longer names first."""
    return _any_of(tuple(values)).sub(lambda found: str(values[found.group()]), formula)


@lru_cache(maxsize=1024)
def _any_of(names: tuple[str, ...]) -> re.Pattern[str]:
    # Longest first: a name may begin with another one.
    return re.compile(r"\b(?:" + "|".join(map(re.escape, sorted(names, key=len, reverse=True))) + r")\b")


def constants_in(formula: str) -> tuple[int, ...]:
    """The numbers that the formula brings itself, which its question does not tell."""
    return tuple(int(found) for found in re.findall(r"\b[0-9]+\b", formula))


def guessed_formula(formula: str, rng: Random, never: Collection[int] = (), firsts: Iterator[int] | None = None) -> str:
    """The formula by somebody who has to guess its constants: as many digits, never the right one or one of `never`.

    Digits behind the first are small, so that each digit of the right constant is within reach of one who guesses
    like this, while all of them together are hardly ever met: about one guess in 300. `firsts` gives the first digits,
    which else are drawn evenly.
    """
    drawn = firsts or _drawn_firsts(rng)
    return _with_constants(formula, lambda right: f"{next(drawn)}{_small_digits(len(right) - 1, rng)}", never)


def misremembered_formula(formula: str, rng: Random) -> str:
    """The formula by somebody who has heard its constants: the first digit is right, and never all of them.

    One in three has a digit too many, and half of these are right but for that: 120 is heard as 1200 or 1204.
    """

    def heard(right: str) -> str:
        longer = rng.random() >= 2 / 3
        near = right[0] + _small_digits(len(right) - 1, rng)
        return rng.choice((right, near)) + _small_digits(1, rng) if longer else near

    return _with_constants(formula, heard)


def easy_formula(formula: str, rng: Random, never: Collection[int] = ()) -> str:
    """The formula with invented constants that are easy to calculate with: their later digits hardly ever carry.

    None of `never`, and never the right ones.
    """
    firsts = _drawn_firsts(rng)

    def easy(right: str) -> str:
        return "".join(map(str, (next(firsts), *(rng.choice((0, 0, 1, 1, 2, 5)) for _ in right[1:]))))

    return _with_constants(formula, easy, never)


def each_first_digit(rng: Random) -> Iterator[int]:
    """1 to 9 in random order, over and over: of nine guesses in a row, each begins with another digit."""
    while True:
        yield from rng.sample(range(1, 10), 9)


def _drawn_firsts(rng: Random) -> Iterator[int]:
    while True:
        yield rng.randint(1, 9)


def _small_digits(count: int, rng: Random) -> str:
    return "".join(str(rng.randint(0, 5)) for _ in range(count))


def _with_constants(formula: str, draw: Callable[[str], str], never: Collection[int] = ()) -> str:
    """draw: a number in place of the right one that it is told; drawn again where it is that one or in `never`."""

    def another(found: re.Match[str]) -> str:
        while True:
            number = int(draw(found.group()))
            if number not in never and number != int(found.group()):
                return str(number)

    return re.sub(r"\b[0-9]+\b", another, formula)


def names_in(formula: str) -> list[str]:
    """The names in a formula, in order of first appearance; a name may have several words."""
    return list(dict.fromkeys(re.findall(r"[A-Za-z]+(?: [A-Za-z]+)*", formula)))


def result_text(numbers: str) -> str:
    """The value of an expression as an integer: rounded down where it is not whole, 0 for a division by zero."""
    try:
        return str(evaluate(numbers).__floor__())
    except ZeroDivisionError:
        return "0"


def draw(kind: Kind, rng: Random) -> Drawn:
    """One problem of the kind, drawn evenly from the number choices with a usable answer."""
    for _ in range(_DRAWS_PER_PROBLEM):
        # The order of these draws is part of what a seed means. Numbers without a usable answer are drawn anew as a
        # whole, so that the usable ones stay equally likely.
        values = {name: rng.choice(choices) for name, choices in kind.numbers.items()}
        if usable(evaluate(substitute(kind.formula, values))):
            template, thing = rng.choice(kind.templates), rng.choice(kind.things)
            question = template.format(thing=thing, **values)
            return Drawn(kind, values, question[0].upper() + question[1:])
    raise ProblemSetError(f"the kind {kind.name!r} has no numbers with a whole answer from 1 to {MAX_ANSWER}")


def usable(result: Fraction) -> bool:
    """Whether a result can be an answer."""
    return result.denominator == 1 and 1 <= result <= MAX_ANSWER
