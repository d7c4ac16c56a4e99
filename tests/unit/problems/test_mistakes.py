"""Wrong peers: wrong in the way asked for, and never right by accident."""

from random import Random

import pytest

from shared.problems.biology import BIOLOGY
from shared.problems.chemistry import CHEMISTRY
from shared.problems.integer import IntegerFormat
from shared.problems.kinds import Kind, constants_in, draw
from shared.problems.mistakes import PeerFault, peer_line
from shared.problems.physics import PHYSICS

ALL_KINDS = (*PHYSICS, *CHEMISTRY, *BIOLOGY)
each_kind = pytest.mark.parametrize("kind", ALL_KINDS, ids=lambda kind: kind.name)


def _others(kind: Kind) -> list[Kind]:
    return [other for other in ALL_KINDS if other is not kind]


@each_kind
@pytest.mark.parametrize("fault", list(PeerFault))
def test_a_peer_is_right_only_without_a_fault(kind: Kind, fault: PeerFault) -> None:
    rng = Random(0)
    for _ in range(60):
        drawn = draw(kind, rng)
        peer = peer_line(drawn, fault, _others(kind), rng)
        assert peer.fault is fault
        assert IntegerFormat().grade(f" {peer.text}", drawn.answer) == (1.0 if fault is PeerFault.NONE else 0.0)


@each_kind
def test_each_fault_spoils_its_own_part(kind: Kind) -> None:
    rng = Random(1)
    for _ in range(30):
        drawn = draw(kind, rng)
        arithmetic = peer_line(drawn, PeerFault.ARITHMETIC, _others(kind), rng)
        assert (arithmetic.formula, arithmetic.numbers) == (kind.formula, drawn.numbers)
        numbers = peer_line(drawn, PeerFault.NUMBERS, _others(kind), rng)
        assert numbers.formula == kind.formula
        assert numbers.numbers != drawn.numbers
        formula = peer_line(drawn, PeerFault.FORMULA, _others(kind), rng)
        assert formula.formula != kind.formula


@each_kind
def test_wrong_formulas_are_many_and_not_only_the_listed(kind: Kind) -> None:
    rng = Random(2)
    drawn = draw(kind, rng)
    formulas = {peer_line(drawn, PeerFault.FORMULA, _others(kind), rng).formula for _ in range(200)}
    assert len(formulas) > 20
    assert len(formulas & set(kind.wrong_formulas)) >= 2


@pytest.mark.parametrize("kind", [kind for kind in ALL_KINDS if not kind.guessable], ids=lambda kind: kind.name)
def test_peers_come_near_a_constant_that_the_question_does_not_tell(kind: Kind) -> None:
    """As a peer does that is being taught: its tutor must have seen such lines, or it copies them."""
    rng = Random(3)
    formulas = [peer_line(draw(kind, rng), PeerFault.FORMULA, _others(kind), rng).formula for _ in range(300)]
    (right,) = constants_in(kind.formula)
    shape = kind.formula.replace(str(right), "{}")
    met = [each for formula in formulas for each in constants_in(formula) if shape.format(each) == formula]
    near = [each for each in met if str(each)[0] == str(right)[0]]
    assert right not in met
    assert 30 <= len(near) < len(met) - 30
