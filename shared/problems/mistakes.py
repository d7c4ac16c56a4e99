"""Answers as an imperfect peer would write them: right, or wrong in one of three ways, and messily so.

A tutor that only ever saw tidy mistakes learns to copy the peer's formula; so wrong formulas come from the
kind's own list, from other kinds, and from any operation between the numbers, and a wrong line is often wrong
in its result, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random

from shared.problems.kinds import (
    Drawn,
    Kind,
    guessed_formula,
    misremembered_formula,
    names_in,
    result_text,
    solution_line,
    substitute,
)


class PeerFault(StrEnum):
    """What is wrong with a peer's line."""

    NONE = "none"
    FORMULA = "formula"
    ARITHMETIC = "arithmetic"
    NUMBERS = "numbers"


@dataclass(frozen=True)
class PeerLine:
    """One line a peer wrote, and the parts it was made of."""

    fault: PeerFault
    formula: str
    numbers: str
    text: str


def peer_line(drawn: Drawn, fault: PeerFault, others: Sequence[Kind], rng: Random) -> PeerLine:
    """A peer's line for the problem with that fault; `others` are the kinds whose formulas get mixed up."""
    if fault is PeerFault.FORMULA:
        return _wrong_formula(drawn, others, rng)
    if fault is PeerFault.ARITHMETIC:
        result = _slip(drawn.answer, rng)
        return _line(drawn, fault, drawn.kind.formula, drawn.numbers, result)
    if fault is PeerFault.NUMBERS:
        numbers = _wrong_numbers(drawn, rng)
        return _line(drawn, fault, drawn.kind.formula, numbers, result_text(numbers))
    return _line(drawn, fault, drawn.kind.formula, drawn.numbers, drawn.answer)


def wrong_formula(drawn: Drawn, others: Sequence[Kind], rng: Random) -> tuple[str, str]:
    """A formula with its numbers that gives another result: half from the kind's list, half mixed up."""
    while True:
        source = rng.choices((_own_mistake, _other_kind, _any_operation), weights=(2, 1, 1))[0]
        formula, numbers = source(drawn, others, rng)
        if result_text(numbers) != drawn.answer:
            return formula, numbers


def _wrong_formula(drawn: Drawn, others: Sequence[Kind], rng: Random) -> PeerLine:
    formula, numbers = wrong_formula(drawn, others, rng)
    result = result_text(numbers)
    slipped = _slip(result, rng)
    # A slip must not make the right result out of a wrong formula.
    if rng.random() < 1 / 3 and slipped != drawn.answer:
        result = slipped
    quantity = rng.choice(others).quantity if rng.random() < 1 / 5 else drawn.kind.quantity
    return PeerLine(PeerFault.FORMULA, formula, numbers, solution_line(quantity, formula, numbers, result))


def _line(drawn: Drawn, fault: PeerFault, formula: str, numbers: str, result: str) -> PeerLine:
    return PeerLine(fault, formula, numbers, solution_line(drawn.kind.quantity, formula, numbers, result))


def _own_mistake(drawn: Drawn, others: Sequence[Kind], rng: Random) -> tuple[str, str]:  # noqa: ARG001
    write = _listed if drawn.kind.guessable else rng.choice(_WITH_A_SECRET)
    formula = write(drawn.kind, rng)
    return formula, substitute(formula, drawn.values)


def _listed(kind: Kind, rng: Random) -> str:
    return rng.choice(kind.wrong_formulas)


def _guessed(kind: Kind, rng: Random) -> str:
    return guessed_formula(kind.formula, rng)


def _misremembered(kind: Kind, rng: Random) -> str:
    return misremembered_formula(kind.formula, rng)


# A peer that is being taught a constant comes nearer to it with each step. A tutor that never saw one so near copies
# what it reads instead of saying what it knows, and its right hints end just before the peer has learnt.
_WITH_A_SECRET = (_listed, _guessed, _misremembered)


def _other_kind(drawn: Drawn, others: Sequence[Kind], rng: Random) -> tuple[str, str]:
    """Another kind's formula with this problem's numbers in order, and invented ones where they run out."""
    formula = rng.choice(others).formula
    given = list(drawn.values.values())
    rng.shuffle(given)
    names = names_in(formula)
    given += [rng.randint(2, 20) for _ in range(len(names) - len(given))]
    return formula, substitute(formula, dict(zip(names, given, strict=False)))


def _any_operation(drawn: Drawn, others: Sequence[Kind], rng: Random) -> tuple[str, str]:
    """Any operation between this kind's first name and a name from here or elsewhere."""
    values = dict(drawn.values)
    left = rng.choice(list(values))
    foreign = names_in(rng.choice(others).formula)[0]
    # A name that this problem has as well keeps its number.
    values.setdefault(foreign, rng.randint(2, 20))
    right = rng.choice([name for name in values if name != left] or [left])
    formula = f"{left} {rng.choice('+-*/')} {right}"
    return formula, substitute(formula, values)


def _wrong_numbers(drawn: Drawn, rng: Random) -> str:
    """The right formula with one number misread, so that its result is another."""
    while True:
        name = rng.choice(list(drawn.values))
        values = {**drawn.values, name: rng.choice(drawn.kind.numbers[name])}
        numbers = substitute(drawn.kind.formula, values)
        if result_text(numbers) != drawn.answer:
            return numbers


def _slip(result: str, rng: Random) -> str:
    """Another result, near the right one as slips are."""
    return str(int(result) + rng.choice((-10, -3, -2, -1, 1, 2, 3, 10)))
