"""Results in a feedback in the forms of data sets of word problems, and of the models that learnt them."""

from functools import partial

import pytest

from shared.problems.integer_reveals import split_integer_reveals
from tests.fakes.timed import LINEAR, growth


@pytest.mark.parametrize(
    ("text", "answer", "left"),
    [
        ("So the answer is $12.", "7", "So"),
        ("The total is \\$12.", "12", "The total."),
        ("Add both. The total costs = $12", "12", "Add both. The total costs"),
        ("Add both. It gives €12 in all.", "12", "Add both. in all."),
        ("Add both. So it is US$12.", "12", "Add both."),
        ("Add both. The answer: Rs. 12", "7", "Add both."),
        ("Add both. USD 12 is the right answer.", "12", "Add both."),
        ("The answer is $\\$12$.", "7", ""),
        ("Add both. The angle is 12^\\circ.", "12", "Add both. The angle."),
        ("The angle: $\\theta = 12^{\\circ}$", "12", "The angle: $\\theta$"),
        ("Add both. **Answer:** 12", "7", "Add both."),
        ("Add both. **Final answer**: 12", "7", "Add both."),
        ("Add both. [Answer] 12", "7", "Add both."),
        ('Add both. {"answer": 12}', "7", "Add both. {}"),
        ("Add both. <answer>12</answer>", "7", "Add both."),
        ("Add both. <final_answer> = 12 volts </final_answer>", "7", "Add both."),
        ("Add both. The answer is +12.", "7", "Add both."),
        ("Add both. The answer should've been 12.", "7", "Add both."),
        ("Add both. Answer - 12", "12", "Add both."),
        ("Add both. \\boxed{12\\text{ volts}}", "7", "Add both."),
        ("Add both. \\fbox{12}", "7", "Add both."),
        ("Add both: 3*4 = <<3*4=12>>12.", "7", "Add both: 3*4 =."),
        ("Add both: <<.5*24=$12.00>>12 <<12>>", "7", "Add both:"),
        ("Add both. The speed is \\(12\\,\\mathrm{m\\,s}^{-1}\\).", "12", "Add both. The speed."),
        ("Add both. The speed is 12~\\text{m/s}.", "12", "Add both. The speed."),
        ("Add both. You should find 12.", "12", "Add both."),
        ("Add both. That gave 12.", "12", "Add both."),
        ("Add both and end up with 12.", "12", "Add both and."),
        ("Add both. x equals to 12.", "12", "Add both. x."),
        ("Add both. The answer is not 13 but 12.", "12", "Add both. The answer is."),
        ("Add both. Replace 13 with 12.", "12", "Add both."),
        ("Add both. The result, 12, is small.", "12", "Add both., is small."),
        ("Add both. She has 12 left.", "12", "Add both. She."),
        ("Add both. With twelve left, she bakes.", "12", "Add both., she bakes."),
        ("Add both. It leaves her 12.", "12", "Add both."),
        ("Add both. There remain 12.", "12", "Add both. There."),
        ("Add both. She ends with 12.", "12", "Add both. She."),
        ("Add both. 12 eggs remain.", "12", "Add both."),
        ("Add both. Water has 12 neutrons.", "12", "Add both. Water."),
        ("Add both. Note that 13 ≠ 12.", "12", "Add both. Note that 13."),
    ],
)
def test_a_claimed_result_goes(text: str, answer: str, left: str) -> None:
    assert split_integer_reveals(text, answer)[0] == left


@pytest.mark.parametrize(
    "text",
    [
        "She has 13 left.",
        "Move 12 to the left.",
        "Take 3 + 12 left of it.",
        "Use $12 an hour and $3 a day.",
        "It is not 12 but x.",
        "Replace 12 with 13.",
        "Find 12 - x.",
        "You found 13 and not 14.",
        r"The angle is 12^\circ + x.",
        "It is $12 + x$.",
        r"It is 12^{2}.",
        "Look up <<Newton's second law>>.",
        "Take <<F = 12 * a>> and solve it.",
    ],
)
def test_given_numbers_and_formulas_stay(text: str) -> None:
    assert split_integer_reveals(f"Check it. {text}", "12") == (f"Check it. {text}", ())


ASKED = "Tom gave 12 eggs to Ann, who left twelve on a plate of mass 12 kg. An atom with 12 protons has 12."


@pytest.mark.parametrize(
    "text",
    [
        "You missed that she gave twelve eggs away.",
        "Ann left 12 eggs.",
        "Ann left 12 on a plate.",
        "The plate has a mass of 12 kg.",
        "It has 12 protons.",
    ],
)
def test_numbers_that_the_question_gives_in_these_words_stay(text: str) -> None:
    assert split_integer_reveals(text, "12", ASKED) == (text, ())


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("That gave 12 eggs.", ""),
        ("And 3 * 4 gave 12 eggs.", "And 3 * 4."),
        ("It has 12 neutrons.", ""),
        ("She has 12 left.", "She."),
        ("The total is 12.", "The total."),
        ("The answer lies there: 12 kg.", "The answer lies there"),
    ],
)
def test_the_answer_goes_though_the_question_has_its_number(text: str, left: str) -> None:
    assert split_integer_reveals(text, "12", ASKED)[0] == left


@pytest.mark.parametrize("unit", ["<<12>>", "<answer>12", "not 13 but ", "12\\text{", "US$", "has 12 ", "12 left "])
def test_time_is_linear_in_hostile_text(unit: str) -> None:
    read = partial(split_integer_reveals, answer="12", question=ASKED)
    assert growth(read, unit, 300) < LINEAR
