"""Which languages of a problem set are told to be beyond the sanitizer's forms."""

import pytest

from shared.problems.coverage import uncovered_languages
from shared.problems.formats import format_named
from shared.problems.generated import generate
from shared.problems.problem import Problem, ProblemSet

THAI = "ความเร็วของรถคันที่ {n} เป็นเท่าไร"
SWEDISH = "Vad är massan av kula {n}?"
ENGLISH = "What is the mass of body {n}?"


def problem_set(*questions: str) -> ProblemSet:
    problems = [
        Problem(f"p{n}", ("optics", "acids")[n % 2], "", text.format(n=n), "12") for n, text in enumerate(questions)
    ]
    return ProblemSet("set", format_named("integer"), ("optics", "acids"), tuple(problems), (), ())


@pytest.mark.parametrize(
    "questions",
    [
        [ENGLISH] * 20,
        ["汽车{n}的速度是多少？"] * 10 + [ENGLISH] * 10,
        [ENGLISH] * 99 + [THAI],
        ["{n} + 3 = x"] * 20,
        ["Compute 3 + {n}"] * 20,
    ],
)
def test_nothing_is_said_of_known_languages(questions: list[str]) -> None:
    assert uncovered_languages(problem_set(*questions)) is None


def test_the_generated_problems_are_in_a_known_language() -> None:
    assert uncovered_languages(generate(0)) is None


@pytest.mark.parametrize(
    ("questions", "told"),
    [
        ([THAI] * 10 + [ENGLISH] * 10, "10 of 20 questions are in Thai"),
        ([SWEDISH + " Hur många, och för vilket värde på det?"] * 20, "20 of 20 questions are in Swedish"),
        ([SWEDISH, "Hur många kulor har skål {n}?"] * 10, "20 of 20 questions are in Swedish"),
        ([f"gorrath ud{n} belin vor{n} thane ul{n}?" for n in range(30)], "30 of 30 questions are in a language that"),
    ],
)
def test_other_languages_are_named_with_those_that_are_known(questions: list[str], told: str) -> None:
    said = uncovered_languages(problem_set(*questions)) or ""
    assert said.startswith(told)
    assert said.endswith("Japanese, Korean, Italian")


def test_of_many_questions_some_are_looked_at_wherever_the_languages_stand() -> None:
    said = uncovered_languages(problem_set(*[THAI, *[ENGLISH] * 9] * 1000)) or ""
    assert 140 < int(said.split()[0]) < 260
    assert " of 2000 questions, drawn out of 10000, are in Thai, of which" in said
