"""The key of a question: what is style, and what asks something else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.problems.leaks import leak_key, question_key, rough_key
from tests.fakes.timed import LINEAR, growth

SAME = [
    ("What is  the pH?", "what is the PH"),
    ("ﬁnd m²", "Find m^2!"),
    ("well-known_fact", "well known fact"),
    ("STRASSE", "straße"),
    ("What is 7 + 5?", "What is 7+5"),
    ("Ｗｈａｔ ｉｓ ７＋５？", "what is 7 + 5?"),
    ("What is 7 − 5?", "What is 7-5?"),
    ("What is $7 - 5$?", "What is 7 - 5?"),
    ("“What” is 'it'?", "What is it?"),
    ("Is it so, then?", "Is it so — then?"),
    ("**What** is it?", "What is it?"),
    ("50 % of it", "50% of it"),
    ("It weighs 1,200 kg.", "It weighs 1200 kg"),
    ("Ca²⁺ ions", "Ca^{2+} ions"),
    ("Ca²⁺ ions", "Ca2+ ions"),
    ("CO₂ and H₂O", "CO_2 and H_{2}O"),
    ("10⁻⁵ m", "10^{-5} m"),
    ("½ of it", "1/2 of it"),
    ("3 m/s", "3 m / s"),
    ("The pH (acidity) of it", "The pH, acidity, of it"),
    ("the volume (in Å³)", "the volume in Å³"),
    ("- What is it?", "What is it?"),
    ("汽车的速度是多少？", "汽车的速度是多少"),
    ("溶液的 pH 值", "溶液的pH值"),
    ("pen\u200bdulum", "pendulum"),
    ("re\u0301ponse", "réponse"),
    ("ｶﾞｽ", "ガス"),
    ("What is 7*5?", "What is 7 × 5?"),
    ("What is 7 * 5?", "What is 7·5?"),
    ("What is $7 \\times 5$?", "What is 7 × 5?"),
    ("What is 7 x 5?", "What is 7 ⋅ 5?"),
    ("2a + 2·a", "2a + 2 * a"),
    ("3x10^5 J", "3 × 10⁵ J"),
    ("What is 10 ÷ 2?", "What is 10 / 2?"),
    ("2**3", "2^3"),
    ("CuSO4·5H2O", "CuSO4•5H2O"),
    ("the radical Cl•", "the radical Cl·"),
    ("• What is it?", "What is it?"),
    ("1'200 kg", "1200 kg"),
    ("1\u202f200 kg", "1,200 kg"),
    ("1_200 kg", "1200 kg"),
    ("f''(2)", "f″(2)"),
    ("f'(2)", "f^{\\prime}(2)"),
    ('5" long', "5″ long"),
    ("the 5′ end", "the 5' end"),
    ("‘x’ and 'y'", "x and y"),
    ("*x* and **y**", "x and y"),
    ("``x'' and `y'", '"x" and y'),
    ("the 90's", "the 90s".replace("0s", "0 s")),
    ("l'aire", "l’aire"),
    ("the interval (0,1)", "the interval (0, 1)"),
    ("x \\leq 5", "x <= 5"),
    ("A -> B", "$A \\rightarrow B$"),
    ("20 $^\\circ$C", "20 °C"),
    ("Fig.~1", "Fig. 1"),
    ("A \\ B", "A \\setminus B"),
    ("~~wrong~~ What?", "wrong What?"),
    ("0.5 m", ".5 m"),
    ("the colours (red, green)", "the colours red, green"),
]

OTHER = [
    ("3 A and 12 ohm", "31 A and 2 ohm"),
    ("What is 7 + 5?", "What is 7 - 5?"),
    ("What is 7 - 5?", "What is 7 5?"),
    ("What is 7 * 5?", "What is 7 / 5?"),
    ("What is a - b?", "What is a b?"),
    ("What is a-b?", "What is a b?"),
    ("What is x − y?", "What is x + y?"),
    ("Square -5.", "Square 5."),
    ("50 % of 8", "50 of 8"),
    ("5 % of 8", "5 ‰ of 8"),
    ("the ion Na+", "the ion Na-"),
    ("the ion Na+", "the ion Na"),
    ("the ion Cl-.", "the ion Cl."),
    ("Ca²⁺", "Ca⁺"),
    ("CH3-CH2", "CH3=CH2"),
    ("CH3-CH2", "CH3CH2"),
    ("C#N", "C=N"),
    ("C[C@H](N)O", "C[C@@H](N)O"),
    ("CC(C)O", "CCCO"),
    ("What is 10⁵?", "What is 105?"),
    ("x²", "x₂"),
    ("1.5 m", "15 m"),
    ("1.5 m", "1 5 m"),
    ("a ratio of 1:2", "a ratio of 12"),
    ("2 * (3 + 4)", "(2 * 3) + 4"),
    ("2(3 + 4)", "2 3 + 4"),
    ("2^(3^4)", "(2^3)^4"),
    ("5! + 1", "5 + 1"),
    ("f'(2)", "f(2)"),
    ("2½ kg", "21/2 kg"),
    ("a < b", "a > b"),
    ("5 €", "5 £"),
    ("It costs $5 or $7.", "It costs 5 or 7."),
    ("|x|", "x"),
    ("20 °C", "20 C"),
    ("कि", "की"),
    ("น้ำ", "นา"),
    ("שָׁלוֹם", "שלם"),
    ("か", "が"),
    ("수소", "산소"),
    ("f'", "f''"),
    ("f'", "f"),
    ("f'(2)", "f''(2)"),
    ("Find f'.", "Find f."),
    ("(fg)'", "(fg)"),
    ("$\\psi'$", "$\\psi$"),
    ("5' long", "5 long"),
    ("the π* orbital", "the π orbital"),
    ('5" long', "5' long"),
    ('5" long', "5 long"),
    ("the 5'-end", "the 5-end"),
    ("(0,1)", "[0,1]"),
    ("(0,1)", "[0,1)"),
    ("(0, 1)", "0, 1"),
    ("[a, b]", "(a, b)"),
    ("(0, ∞)", "[0, ∞)"),
    ("~p", "p"),
    ("~p and q", "p and ~q"),
    ("a ~ b", "a b"),
    ("Cl•", "Cl"),
    ("•OH", "OH"),
    ("a × b", "a · b"),
    ("2**3", "2*3"),
    ("A \\ B", "A B"),
    ("F/C=C/F", "F/C=C\\F"),
    ("A†", "A"),
    ("‖x‖", "|x|"),
    ("⟨x⟩", "x"),
    ("⌈x⌉", "⌊x⌋"),
    ("x <= 5", "x < 5"),
    ("1'200 kg", "1 200 kg"),
]

HOSTILE = [
    "'",
    "''",
    "a'",
    "'a",
    "`",
    "`a",
    "~",
    "~p",
    "(0,",
    "(0,1)",
    "\\prime",
    "^\\prime",
    "\\times",
    "1'234",
    "1_234",
]
HOSTILE += ["7*", "7 × ", "7 x ", "<=", "->", "•", "• ", "C\\C", "\\[", "\\", '"', "[0.1,"]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_style_makes_no_other_question(one: str, other: str) -> None:
    assert leak_key(one) == leak_key(other)


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_different_questions_have_different_keys(one: str, other: str) -> None:
    assert leak_key(one) != leak_key(other)


ASKED = "Which metal is liquid?\n\nA: iron\nB: mercury\nC: 3.5 % gold\n\nReason step by step."


def test_options_in_another_order_make_no_other_question() -> None:
    permuted = "which metal is liquid\n\nA: Mercury\nB: 3.5 % gold\nC: iron\n\nReason step by step."
    assert question_key(permuted) == question_key(ASKED)
    assert leak_key(permuted) != leak_key(ASKED)


@pytest.mark.parametrize("change", [("iron", "zinc"), ("liquid", "solid"), ("3.5", "3.6"), ("C: 3.5 % gold\n", "")])
def test_other_options_or_another_stem_make_another(change: tuple[str, str]) -> None:
    assert question_key(ASKED.replace(*change)) != question_key(ASKED)


def test_without_options_the_text_is_the_question() -> None:
    for text in ("How many?", "A: one line is no choice"):
        assert question_key(text) == leak_key(text)


@given(st.one_of(st.text(max_size=80), st.text("aé中ก\u0e31\u0301²½^_-*'()\\$ 1,.A:\n", max_size=30)))
def test_a_rough_key_is_no_more_than_the_letters_and_digits_of_the_key(text: str) -> None:
    """So questions of one key have one rough key, and a search for leaks may begin with that."""
    for question in (text, f"{text}\nA: {text}\nB: 2"):
        parts = question_key(question).split("\n")
        letters = ["".join(filter(str.isalnum, part)) for part in parts]
        assert rough_key(question) == "\n".join([letters[0], *sorted(letters[1:])])


@given(st.text(max_size=80))
def test_a_key_is_its_own_in_other_blanks_and_width(text: str) -> None:
    assert leak_key(f"  {text}\n") == leak_key(text)


@pytest.mark.parametrize(
    "unit", ["(", ")(", "((a+", "$", "$ a", "-", "- ", "1,234", "^", "²", "a*", "कि", "1.", "!", *HOSTILE]
)
def test_time_is_linear_in_hostile_text(unit: str) -> None:
    read = leak_key.__wrapped__  # or the second text of a kind would take no time at all
    assert growth(read, unit, 2000) < LINEAR
