"""What a tutor should say of a generated problem, and whether a text says it."""

import pytest

from shared.config.loading import load_settings
from shared.problems.formats import format_named
from shared.problems.generated import KINDS, draw_partitions
from shared.problems.hints import calls_wrong, drawings, names_formula, names_numbers, right_hint
from shared.problems.kinds import Drawn, Kind

ICE = Kind(
    name="ice",
    quantity="ice",
    formula="900 * cubes",
    numbers={"cubes": range(2, 6)},
    templates=("{cubes} cubes?",),
    things=(),
    concepts=("cubes",),
    wrong_formulas=(),
)
DRAWN = Drawn(ICE, {"cubes": 3}, "3 cubes?")
SUBTRACTION = Drawn(
    Kind(
        name="neutrons",
        quantity="neutrons",
        formula="mass number - protons",
        numbers={"mass number": range(9, 10), "protons": range(4, 5)},
        templates=("?",),
        things=(),
        concepts=("protons",),
        wrong_formulas=(),
    ),
    {"mass number": 9, "protons": 4},
    "?",
)


@pytest.mark.parametrize(
    ("text", "formula", "numbers"),
    [
        ("Use 900 * cubes with 900 * 3.", True, True),
        ("cubes*900, that is 3*900", True, True),
        ("Use 900 * cubes with 900 * 4.", True, False),
        ("Use 90 * cubes with 90 * 3.", False, False),
        ("Use 900 + cubes.", False, False),
        ("Use 900 * cubes * 2 with 900 * 3 * 2.", False, False),
        ("Use 2 * 900 * cubes.", False, False),
        ("Use 9 * 100 * cubes with 27 * 100.", False, False),
        ("900 cubes, 3", False, False),
        ("Use 900 / 0 * cubes with 3 / 00.", False, False),
        ("", False, False),
    ],
)
def test_a_formula_counts_whatever_its_order_and_nothing_like_it_does(text: str, formula: bool, numbers: bool) -> None:
    assert (names_formula(text, DRAWN), names_numbers(text, DRAWN)) == (formula, numbers)


def test_the_order_counts_where_it_matters() -> None:
    assert names_formula("Use mass number - protons.", SUBTRACTION)
    assert not names_formula("Use protons - mass number.", SUBTRACTION)
    assert names_numbers("9 - 4", SUBTRACTION) and not names_numbers("4 - 9", SUBTRACTION)


@pytest.mark.parametrize("domains", [("physics", "chemistry"), ("chemistry", "biology")])
def test_the_right_hint_of_every_problem_is_seen_to_be_right(domains: tuple[str, str]) -> None:
    for item in draw_partitions(0, domains)["train"]:
        hint = right_hint(item, format_named("integer"))
        assert hint is not None and "concept>" not in hint
        assert names_formula(hint, item.drawn) and names_numbers(hint, item.drawn), hint


def test_the_wrong_formulas_of_every_kind_are_seen_to_be_wrong() -> None:
    for item in draw_partitions(0)["train"]:
        for wrong in item.drawn.kind.wrong_formulas:
            assert not names_formula(f"Use {wrong}.", item.drawn), wrong


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("<concept>ice</concept> Wrong formula. Use 900 * cubes.", True),
        ("Use 900 * cubes. That is not correct.", True),
        ("Correct.", False),
        ("Your answer is right. Incorrect units.", False),
        ("The right formula is 900 * cubes.", None),
        ("Correct the formula.", None),
        ("Use 900 * cubes with 900 * 3.", None),
    ],
)
def test_a_verdict_is_what_a_sentence_begins_with(text: str, wrong: bool | None) -> None:
    assert calls_wrong(text) is wrong


def test_only_generated_problems_have_drawings() -> None:
    settings = load_settings(preset="smoke", environ={})
    found = drawings(settings)
    assert {item.drawn.kind.name for item in found.values()} == {
        kind.name for domain in ("physics", "chemistry") for kind in KINDS[domain]
    }
    named = {"p": settings.students["a"], "q": settings.students["b"]}
    assert drawings(settings.model_copy(update={"students": named})) == found, "whatever the students are called"
    elsewhere = load_settings(preset="smoke", overrides=["problems.source=/nowhere"], environ={})
    assert drawings(elsewhere) == {}
