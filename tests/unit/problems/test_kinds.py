"""Kinds: substitution, drawing, and that the shipped kinds keep what a kind promises."""

import re
from random import Random

import pytest

from shared.errors import ProblemSetError
from shared.problems.biology import BIOLOGY
from shared.problems.chemistry import CHEMISTRY
from shared.problems.generated import KINDS
from shared.problems.integer import IntegerFormat
from shared.problems.kinds import (
    MAX_ANSWER,
    Drawn,
    Kind,
    constants_in,
    draw,
    easy_formula,
    guessed_formula,
    misremembered_formula,
    names_in,
    result_text,
    substitute,
)
from shared.problems.physics import PHYSICS

ALL_KINDS = (*PHYSICS, *CHEMISTRY, *BIOLOGY)
each_kind = pytest.mark.parametrize("kind", ALL_KINDS, ids=lambda kind: kind.name)


def test_longer_names_are_replaced_first() -> None:
    assert substitute("mass number - mass", {"mass": 2, "mass number": 9}) == "9 - 2"


def test_a_name_inside_a_word_stays() -> None:
    assert substitute("mass + masses", {"mass": 2}) == "2 + masses"


def test_names_may_have_several_words() -> None:
    assert names_in("2 * mass number - protons + protons") == ["mass number", "protons"]


@pytest.mark.parametrize(("numbers", "text"), [("7 / 2", "3"), ("2 - 5", "-3"), ("1 / 0", "0"), ("3 * 4", "12")])
def test_result_text(numbers: str, text: str) -> None:
    assert result_text(numbers) == text


def test_ten_kinds_a_domain_and_half_of_them_not_guessable() -> None:
    assert [len(kinds) for kinds in KINDS.values()] == [10, 10, 10]
    assert [sum(not kind.guessable for kind in kinds) for kinds in KINDS.values()] == [5, 5, 5]
    assert len({kind.name for kind in ALL_KINDS}) == 30
    assert len({kind.quantity for kind in ALL_KINDS}) == 30, "a shared word would carry a constant from kind to kind"


def test_no_constant_stands_in_two_kinds() -> None:
    for kinds in KINDS.values():
        constants = [number for kind in kinds for number in constants_in(kind.formula)]
        assert len(constants) == 5
    every = [number for kinds in KINDS.values() for kind in kinds for number in constants_in(kind.formula)]
    assert len(set(every)) == len(every), "what one domain tells must not answer another one's question"


@each_kind
def test_what_is_calculated_is_within_reach_of_a_small_model(kind: Kind) -> None:
    """Two one-digit numbers; a quotient of at most 12 by at most 5; a constant times 2 to 5, which hardly carries."""
    assert len(re.findall(r"[-+*/]", kind.formula)) == 1
    assert max(max(choices) for choices in kind.numbers.values()) <= (12 if "/" in kind.formula else 9)
    assert all(set(str(number)[1:]) <= set("012") for number in constants_in(kind.formula))


def test_a_wrong_constant_is_another_and_one_that_was_heard_may_have_a_digit_too_many() -> None:
    rng = Random(0)
    guesses = {guessed_formula("300 * seconds", rng, {700}) for _ in range(400)}
    assert guesses.isdisjoint({"300 * seconds", "700 * seconds"}) and len(guesses) > 150
    assert all(re.fullmatch(r"[1-9][0-5][0-5] \* seconds", guess) for guess in guesses)
    heard = [misremembered_formula("300 * seconds", rng) for _ in range(1200)]
    assert "300 * seconds" not in heard
    assert all(re.fullmatch(r"3[0-5]{2,3} \* seconds", each) for each in heard)
    longer = [each for each in heard if re.match(r"\d{4}", each)]
    assert 1 / 4 < len(longer) / len(heard) < 0.42
    assert 0.4 < sum(each.startswith("300") for each in longer) / len(longer) < 0.62
    easy = {easy_formula("300 * seconds", rng, {710}) for _ in range(1000)}
    assert easy.isdisjoint({"300 * seconds", "710 * seconds"})
    assert {each[0] for each in easy} == set("123456789")
    assert all(re.fullmatch(r"[1-9][0125][0125] \* seconds", each) for each in easy)


@each_kind
def test_the_formula_uses_exactly_the_numbers(kind: Kind) -> None:
    assert set(names_in(kind.formula)) == set(kind.numbers)
    for wrong in kind.wrong_formulas:
        assert wrong != kind.formula
        assert set(names_in(wrong)) <= set(kind.numbers)


@each_kind
def test_a_formula_is_not_guessable_exactly_when_it_has_a_constant(kind: Kind) -> None:
    assert bool(re.search(r"\d", kind.formula)) is not kind.guessable


@each_kind
def test_every_wording_tells_all_numbers_and_a_concept(kind: Kind) -> None:
    values = {name: 900 + index for index, name in enumerate(kind.numbers)}
    for template in kind.templates:
        for thing in kind.things:
            drawn = Drawn(kind, values, template.format(thing=thing, **values))
            assert all(str(value) in drawn.question for value in values.values())
            assert re.search(rf"\b{drawn.concept}\b", drawn.question)
            raw = f"<concept>{drawn.concept}</concept> Use {kind.formula}."
            judged = IntegerFormat().judge_feedback(raw, drawn.problem("p", "d"))
            verdict, clean = judged.verdict, judged.delivered
            assert verdict.startswith("match:")
            assert clean is not None


@each_kind
def test_drawings_are_answered_by_their_own_solution(kind: Kind) -> None:
    rng = Random(0)
    for _ in range(50):
        drawn = draw(kind, rng)
        assert 1 <= int(drawn.answer) <= MAX_ANSWER
        assert drawn.solution == f"{kind.quantity} = {kind.formula} = {drawn.numbers} = {drawn.answer}"
        assert IntegerFormat().grade(f" {drawn.solution}", drawn.answer) == 1.0
        assert len(drawn.question.split()) <= 24
        assert drawn.question[0].isupper() or drawn.question[0].isdigit()


@each_kind
def test_the_wrong_formulas_are_mostly_wrong_in_value(kind: Kind) -> None:
    rng = Random(1)
    drawings = [draw(kind, rng) for _ in range(30)]
    for wrong in kind.wrong_formulas:
        same = [d for d in drawings if result_text(substitute(wrong, d.values)) == d.answer]
        assert len(same) <= 6, wrong


def test_a_kind_without_a_usable_answer_is_an_error() -> None:
    hopeless = Kind("half", "half", "n / 2", {"n": range(1, 2)}, ("{n} {thing}?",), ("x",), ("x",), ("n",))
    with pytest.raises(ProblemSetError, match="'half' has no numbers with a whole answer"):
        draw(hopeless, Random(0))
