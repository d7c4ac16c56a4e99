"""What points at the right option, and what speaks of it as of any other."""

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.problems.letter_reveals import split_letter_reveals
from shared.problems.mcq import McqFormat, NaiveMcqFormat
from tests.fakes.timed import LINEAR, growth
from tests.unit.problems.test_mcq import PROBLEM

POINTING = [
    "This corresponds to option D.",
    "This corresponds to **D**.",
    "It matches (D).",
    r"Your own value matches \(D\).",
    "The ratio is closest to option D: 3.96.",
    "All of it is consistent with option D.",
    "That points to D, as it should.",
    "The value 3.96, which is option D.",
    "The value 3.96, i.e. D.",
    "The ratio is 3.96 → D",
    "The value 3.96 (option D).",
    "The product is the ester (option D), not the acid.",
    "This gives about 3.96 kJ/mol (D).",
    "I'd answer D.",
    "It should say D.",
    "The answer is not B but D.",
    "Replace B with D.",
    "Change **B** to **D**.",
    "B should be D.",
    "All but D are wrong.",
    "Everything except option D is wrong.",
    "D remains.",
    "Only D remains.",
    "D it is, then.",
    "D is the only one that fits.",
    "So **D** is the one.",
    "Option D alone fits the data.",
    "<final_answer>D</final_answer>",
    "[Answer] D",
    'So {"answer": "D"}',
    "Expected: D",
]
SPEAKING = [
    "Option D is too low because the sign is lost.",
    "The value 3.96 (option D) is too low.",
    "The value is not 3.96 (option D).",
    "Your value of 3.96 (option D) has a wrong unit.",
    "Compare 3.2 (option C) and 3.96 (option D).",
    "Fick's law gives the diffusivity (D).",
    "D: 3.96 is too high for a light damping.",
    "It hesitates between A and D.",
    "Your value corresponds to option B.",
    "Your value matches B.",
    "Not B but C.",
    "This gives D = 3 m.",
    "The term that corresponds to D in Fick's law.",
    "It leads to D-glucose.",
    "This points to D_0 as the factor.",
    "This does not correspond to option D.",
    "This doesn't correspond to option D.",
    "It never matches D.",
    "Look at the reaction A + B → D.",
    "The chain is A → B → D.",
    "The value of D remains constant.",
    "Protein D is the one that folds.",
    "Figure D alone shows it.",
    "Reconsider why you rejected option D.",
    "You say D and argue for B.",
    "This gives a value, which is a constant.",
    "Compare option C and option D.",
]


@pytest.mark.parametrize("text", POINTING)
def test_what_points_at_the_right_option_goes(text: str) -> None:
    left, removed = split_letter_reveals(f"Check the damping. {text}", "D")
    assert "D" not in left and left.startswith("Check the damping.")
    assert any("D" in piece for piece in removed)


@pytest.mark.parametrize("text", SPEAKING)
def test_what_speaks_of_an_option_stays(text: str) -> None:
    assert split_letter_reveals(text, "D") == (text, ())


@pytest.mark.parametrize("text", [text for text in POINTING if "B" not in text])
def test_what_points_at_a_wrong_option_is_part_of_a_review(text: str) -> None:
    assert split_letter_reveals(text, "A") == (text, ())


def test_both_prompts_deliver_feedback_without_it() -> None:
    raw = f"<concept>pendulum</concept> Recheck. This matches option {PROBLEM.answer}."
    for form, verdict in ((McqFormat(), "match:pendulum"), (NaiveMcqFormat(), "unanchored")):
        judged = form.judge_feedback(raw, PROBLEM)
        assert (judged.verdict, judged.delivered) == (verdict, "Recheck. This.")
        assert judged.removed == (f" matches option {PROBLEM.answer}",)
        judged = form.judge_feedback(f"<concept>pendulum</concept> → {PROBLEM.answer}", PROBLEM)
        assert (judged.verdict, judged.delivered) == ("fb_none", None)


@given(st.text("Dd B.,→=>option matches\\(){}*<answer>:'\n", max_size=60))
def test_it_only_deletes_and_has_nothing_left_to_delete(text: str) -> None:
    left, _ = split_letter_reveals(text, "D")
    rest = iter(text)
    assert all(character in rest for character in left)
    assert split_letter_reveals(left, "D") == (left, ())


@pytest.mark.parametrize(
    "unit", ["matches ", "not B but ", "→", "D ", "<ans>", "{", "**", "all but D ", "is 3 (option D) "]
)
def test_time_is_linear_in_hostile_text(unit: str) -> None:
    read = partial(split_letter_reveals, answer="D")
    assert growth(read, unit, 300) < LINEAR
