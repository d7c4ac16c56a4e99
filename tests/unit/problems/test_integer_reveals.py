"""Which integers are taken out of a feedback, and which stay."""

import re
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.method.languages import LANGUAGES
from shared.problems.integer_reveals import split_integer_reveals
from tests.fakes.timed import LINEAR, growth

REMOVED = [
    ("Use 14 - pH with 14 - 3 = 11.", "11", "Use 14 - pH with 14 - 3."),
    ("Use 14 - pH with 14 - 3 = 12.", "11", "Use 14 - pH with 14 - 3."),
    ("14 - 3 = 11 = pOH", "11", "14 - 3 = pOH"),
    ("2 * (3 + 4) = 14 by rule", "14", "2 * (3 + 4) by rule"),
    ("pOH == 11 11.", "11", "pOH."),
    ("pOH = 11.", "11", "pOH."),
    ("pOH=11", "11", "pOH"),
    ("3 * 4 = 12 volts.", "12", "3 * 4."),
    ("3 * 4 = 12V.", "12", "3 * 4."),
    ("3 * 4 = 12 = 13.", "12", "3 * 4."),
    ("2 - 5 = -3.", "-3", "2 - 5."),
    ("2 - 5 = −3.", "-3", "2 - 5."),
    ("Good. The answer is 12.", "7", "Good."),
    ("answer: 12", "12", ""),
    ("The correct answer should be 012, as", "12", ", as"),
    ("Then 3 * 4 gives 12.", "12", "Then 3 * 4."),
    ("The voltage is 12.", "12", "The voltage."),
    ("3 * 4 ＝ １２.", "12", "3 * 4."),
    ("The answer is **12**.", "12", ""),
    ("The answer is $12$ volts.", "12", " volts."),
    ("The voltage is 12.0 V.", "12", "The voltage."),
    ("3 * 400 = 1,200 m.", "1200", "3 * 400."),
    ("mass = 1,200.", "1200", "mass."),
    ("Check it. \\boxed{12}", "7", "Check it."),
    ("Check it. $\\boxed{12 V}$", "12", "Check it."),
    ("检查公式。答案是12。", "12", "检查公式。"),
    ("电压等于12伏。", "12", "电压伏。"),
    ("Die Antwort ist 12.", "7", ""),
    ("Die Spannung beträgt 12.", "12", "Die Spannung."),
    ("La respuesta es 12.", "7", ""),
    ("La réponse est 12.", "7", ""),
    ("La tension vaut 12.", "12", "La tension."),
    ("A resposta é 12.", "7", ""),
    ("La risposta è 12.", "7", ""),
    ("Ответ: 12.", "7", ""),
    ("Напряжение равно 12.", "12", "Напряжение."),
    ("उत्तर 12 है।", "7", ""),
    ("الجواب هو 12.", "7", ""),
    ("الجواب هو ١٢.", "7", ""),
    ("उत्तर १२ है।", "7", ""),
    ("السرعة تساوي ١٢.", "12", "السرعة."),
    ("答えは12です。", "7", ""),
    ("정답은 12입니다.", "7", ""),
    ("14 - 3 ≈ 12.", "11", "14 - 3."),
    ("#### 12", "7", ""),
    ("11 = 14 - 3.", "11", "14 - 3."),
    ("It is 12 because the mass is 3.", "12", " because the mass is 3."),
    ("The voltage is 1'200 V.", "1200", "The voltage."),
    ("The voltage is 1\u202f200 V.", "1200", "The voltage."),
    ("Es ergibt zwölf.", "12", "Es."),
    ("The voltage is **twelve** volts.", "12", "The voltage volts."),
    ("The speed is one.", "1", "The speed."),
    ("The loss is minus 3.", "-3", "The loss."),
    ("The loss is minus three.", "-3", "The loss."),
    ("Check it. So -3 is the answer.", "-3", "Check it."),
]

KEPT = [
    ("area = 12² m.", "122"),
    ("area = 12² m.", "12"),
    ("x = 10³ m.", "103"),
    ("pOH = 14 - pH", "14"),
    ("Use 2 * carbons + 2 with 2 * 7 + 2.", "16"),
    ("hydrogens = 2n + 2", "2"),
    ("hydrogens = 2(n + 1)", "2"),
    ("pOH = 14 minus pH", "14"),
    ("pH + pOH = 14.", "11"),
    ("with mass = 3 and speed = 4.", "12"),
    ("The constant is 14.", "11"),
    ("The answer is 14 - pH.", "14"),
    ("Use 12 and 3.", "12"),
    ("The current is 12.5.", "12"),
    ("The current is 120.", "12"),
    ("The current is 12.05.", "12"),
    ("质量是3，速度是4。", "12"),
    ("정답은 12가 아닙니다.", "7"),
    ("Die Antwort ist 14 - pH.", "11"),
    ("The loss is minus three.", "3"),
    ("The loss is three.", "-3"),
]

WHOLE = {
    "English": [
        "12 is the answer.",
        "12 is correct.",
        "So 12 is the correct answer.",
        "The number 12 is right.",
        "It is equal to 12.",
        "It's 12.",
        "That's 12 volts.",
        "It is 12.",
        "Therefore, it's 12.",
        "=  12.",
        "≈ 12.",
        "\\approx 12.",
        "= 12/1.",
        "= 12 / 1.",
        "= (12).",
        "twelve is the answer.",
        "The answer is twelve.",
        "The answer is twelve volts.",
        "It equals twelve.",
        "You get 12.",
        "This comes to 12.",
        "It works out to 12.",
        "It is exactly 12.",
        "It gives you 12.",
        "Resulting in 12.",
        "i.e., 12.",
        "= +12.",
        "Answer (12)",
        "The final answer 12",
        "So 12.",
        "#### 12",
        "12.",
        "Twelve.",
        "The final answer, 12.",
        "The correct value 12.",
        "Result: 12 V",
        "Ans: 12.",
        "The answer's 12.",
        "→ 12.",
        "=> 12.",
        "It is １２.",
        "It gives a total of 12.",
        "= 12 (V).",
        r"The answer is \(12\).",
        r"Final answer: \(12\).",
        r"Final answer: \[ \mathbf{12} \]",
        r"= \(12\).",
        r"It is $\boldsymbol{12}$.",
        "The answer is <u>12</u>.",
        "It is <code>twelve</code>.",
        "It should have been 12.",
        "The result would then be 12.",
        "The answer, therefore, is 12.",
        "The correct answer is, in fact, 12.",
        "The answer then is 12.",
        "It is, in fact, 12.",
        "12 should have been the answer.",
    ],
    "Spanish": [
        "12 es la respuesta.",
        "12 es correcto.",
        "La correcta es 12.",
        "Es doce.",
        "La respuesta es doce.",
        "Es igual a 12.",
    ],
    "French": [
        "C'est 12.",
        "C'est douze.",
        "12 est la réponse.",
        "La réponse est douze.",
        "Égale à 12.",
    ],
    "Portuguese": [
        "12 é a resposta.",
        "A resposta é doze.",
        "É 12.",
    ],
    "Italian": [
        "12 è la risposta.",
        "La risposta è dodici.",
        "È uguale a 12.",
    ],
    "German": [
        "12 ist die Antwort.",
        "12 ist richtig.",
        "Die Antwort ist zwölf.",
        "Das ist 12.",
    ],
    "Russian": [
        "12 — правильный ответ.",
        "12 верно.",
        "Ответ: двенадцать.",
        "Это 12.",
        "Равно двенадцати.",
    ],
    "Hindi": [
        "12 सही उत्तर है।",
        "उत्तर बारह है।",
        "उत्तर १२ है।",
        "यह 12 है।",
        "12 के बराबर है।",
    ],
    "Arabic": [
        "12 هو الجواب.",
        "الجواب هو ١٢.",
        "الجواب هو اثنا عشر.",
        "يساوي 12.",
    ],
    "Chinese": [
        "12是正确答案。",
        "12就是答案。",
        "答案是十二。",
        "等于十二。",
        "所以是12。",
    ],
    "Japanese": [
        "12が正解です。",
        "答えは十二です。",
        "よって12です。",
        "12になります。",
    ],
    "Korean": [
        "12가 정답입니다.",
        "답은 십이입니다.",
        "답은 열둘입니다.",
        "따라서 12입니다.",
        "12와 같다.",
    ],
}
"""Sentences that say that the answer is 12, and nothing else."""

HARMLESS = [
    "13 is correct.",
    "13 is the first value.",
    "The mass of 12 is given.",
    "pOH = 12 - pH.",
    "pOH ≈ 12 - pH.",
    "Use 24 / 12 is wrong.",
    "14 - 12 is correct.",
    "3 * 12 = x.",
    "x <= 12.",
    "x != 12.",
    "Use twelve and three.",
    "12.5 is correct.",
    "1.12 is correct.",
    "112 is correct.",
    "12 m is not the answer.",
    "12 is not correct.",
    "It's 13.",
    "It's 12 * 3.",
    "≈ 13.",
    "= 13/1.",
    "thirteen is the answer.",
    "Use 12 volts and 3 amperes.",
    "Given: 12, 3.",
    "12 times 3 is needed.",
    "It is equal to 13.",
    "= 12².",
    "12² is the square.",
    "13 es correcto.",
    "13 ist richtig.",
    "C'est 13.",
    "Es trece.",
    "13 верно.",
    "十二月是冬天。",
    "第十二步有误。",
    "13が正解です。",
    "13가 맞습니다.",
    "質量は13です。",
    "= 12π.",
    "= 12 ± 1.",
    "2. Check the sign.",
    "12. Check the sign.",
    "Use 3 +12 is correct.",
    "2 A → 12 B is the reaction.",
    "C[N+]12=CC=CC is the molecule.",
    r"= \(12\) \times 3.",
    r"= \(12 - x\).",
    r"Use \(12\) and \(3\).",
    "Use <u>12</u> and 3.",
    "It should have been 13.",
    "It should have been 12 - x.",
    "The answer, therefore, is 12 times x.",
]
"""Sentences that do not say that the answer is 12."""

WORDS_OF_THEIR_OWN = [
    "The sign is one of them.",
    "That is the wrong one.",
    "It is one way.",
    "Es una fuerza.",
    "C'est un vecteur.",
    "Es ist ein Vektor.",
    "这是一个力。",
    "È una forza.",
    "이것은 이 문제이다.",
]


@pytest.mark.parametrize(("text", "answer", "left"), REMOVED)
def test_a_claimed_result_goes(text: str, answer: str, left: str) -> None:
    assert split_integer_reveals(text, answer)[0] == left


@pytest.mark.parametrize(("text", "answer"), KEPT)
def test_formulas_and_given_numbers_stay(text: str, answer: str) -> None:
    assert split_integer_reveals(text, answer)[0] == text


@pytest.mark.parametrize("text", [text for texts in WHOLE.values() for text in texts])
def test_a_sentence_that_names_the_answer_goes_and_its_neighbours_stay(text: str) -> None:
    assert split_integer_reveals(text, "12")[0].strip() == ""
    assert split_integer_reveals(f"Check it. {text}", "12")[0].strip() == "Check it."


@pytest.mark.parametrize("wrapped", [r"\({}\)", r"\[{}\]", "${}$", "<u>{}</u>", r"\${}", "€{}", r"{}^\circ"])
def test_what_is_wrapped_around_a_number_changes_nothing(wrapped: str) -> None:
    # A unit outside of the markup stays, as behind any formula.
    alone = re.compile(r"\b12\b(?! ?(?:volts|\(?V|/))")
    for text in [text for texts in WHOLE.values() for text in texts if " 12" in text and alone.search(text)]:
        named = text.replace("12", wrapped.format("12"))
        assert split_integer_reveals(f"Check it. {named}", "12")[0].strip() == "Check it."


@pytest.mark.parametrize("text", HARMLESS)
def test_other_numbers_and_unfinished_formulas_stay(text: str) -> None:
    assert split_integer_reveals(f"Check it. {text}", "12")[0] == f"Check it. {text}"


@pytest.mark.parametrize("answer", ["1", "2"])
@pytest.mark.parametrize("text", WORDS_OF_THEIR_OWN)
def test_articles_and_pronouns_are_no_numbers(text: str, answer: str) -> None:
    assert split_integer_reveals(text, answer)[0] == text


def test_every_listed_language_is_held_here() -> None:
    assert set(WHOLE) == {language.name for language in LANGUAGES}


@given(st.text(alphabet="= 12-.*+aisnwer(）＝\n", max_size=60))
def test_it_only_deletes_and_has_nothing_left_to_delete(text: str) -> None:
    left = split_integer_reveals(text, "12")[0]
    rest = iter(text)
    assert all(character in rest for character in left)
    assert split_integer_reveals(left, "12")[0] == left


@pytest.mark.parametrize(
    "unit",
    [
        *[
            "= 1",
            "1",
            "1,234",
            "123 ",
            "1'",
            "12 is ",
            "twelve ",
            "the ",
            "so ",
            "it is ",
            "(",
            "**",
            "$",
            "[12",
            "12 = ",
        ],
        *[
            "la correcta es ",
            "c'est ",
            "12 est ",
            "十二",
            "十",
            "은 ",
            "이",
            "यह 12 ",
            "١٢",
            "≈",
            "=  ",
            "is about ",
            "12/1",
            "- ",
            "\\(12",
            "12    \\)",
            "<u>",
            "should then have been ",
            "answer, then, is ",
        ],
    ],
)
def test_time_is_linear_in_hostile_text(unit: str) -> None:
    read = partial(split_integer_reveals, answer="12")
    assert growth(read, unit, 300) < LINEAR


def test_hostile_length_is_no_matter() -> None:
    text = "= 1 is 12 answer " * 5000
    assert len(split_integer_reveals(text, "12")[0]) < len(text)
