"""Which integers are taken out of a feedback, and which stay."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.problems.integer_reveals import split_integer_reveals

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
]


@pytest.mark.parametrize(("text", "answer", "left"), REMOVED)
def test_a_claimed_result_goes(text: str, answer: str, left: str) -> None:
    assert split_integer_reveals(text, answer)[0] == left


@pytest.mark.parametrize(("text", "answer"), KEPT)
def test_formulas_and_given_numbers_stay(text: str, answer: str) -> None:
    assert split_integer_reveals(text, answer)[0] == text


@given(st.text(alphabet="= 12-.*+aisnwer(）＝\n", max_size=60))
def test_it_only_deletes_and_has_nothing_left_to_delete(text: str) -> None:
    left = split_integer_reveals(text, "12")[0]
    rest = iter(text)
    assert all(character in rest for character in left)
    assert split_integer_reveals(left, "12")[0] == left


def test_hostile_length_is_no_matter() -> None:
    text = "= 1 is 12 answer " * 5000
    assert len(split_integer_reveals(text, "12")[0]) < len(text)
