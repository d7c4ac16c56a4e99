"""Feedback prompts, and everything about a review that the table of cases does not say."""

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.method.anchoring import MAX_FEEDBACK_CHARS, concept, review_feedback, verdict
from shared.method.tutor_prompt import feedback_prompt, naive_feedback_prompt, without_instruction_line
from tests.unit.method.reviewed import process

PROBLEM = "Newton's second law: which \\frac{force}{mass} moves the X-ray tube of α decay?\n\nA: 1\nB: 2"
VERDICT = re.compile(r"match:.+|no_concept_tag|empty|all_generic|no_match|fb_none", re.DOTALL)

pieces = ["<concept>", "</concept>", "<think>", "</think>", "force", "**B**", "\u200b", "\ud800", "{problem}", ". "]
messy = st.one_of(st.text(max_size=80), st.lists(st.sampled_from(pieces), max_size=20).map("".join))


@given(st.none() | messy, messy)
def test_process_never_raises_and_delivers_only_a_match(raw: str | None, problem: str) -> None:
    word, text = process(raw, problem)
    assert VERDICT.fullmatch(word)
    assert (text is not None) is word.startswith("match:")
    assert text is None or (len(text) <= MAX_FEEDBACK_CHARS and text == text.strip())


@given(messy, messy)
def test_a_review_accounts_for_every_deleted_character(raw: str, problem: str) -> None:
    review = review_feedback(raw, problem)
    gone = {at for removal in review.removals for at in range(removal.start, removal.end)}
    left = "".join(character for at, character in enumerate(raw) if at not in gone)
    assert left == (review.body or left)
    assert review.body is not None or not any(map(str.isalnum, left))


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        ("Newton", "match:newton"),
        ("Newton’s", "match:newton's"),
        ("mass", "match:mass"),
        ("X‑ray", "match:x-ray"),
        ("α", "all_generic"),
        ("α decay", "match:decay"),
        ("x", "all_generic"),
        ("step-by-step", "all_generic"),
        ("!?", "all_generic"),
        ("laws", "no_match"),
    ],
)
def test_words_of_a_concept(term: str, expected: str) -> None:
    assert verdict(f"<concept>{term}</concept>", PROBLEM) == expected


CHINESE = "一辆汽车的初速度为零，牛顿第二定律给出的加速度是多少？溶液的pH值不变。"
JAPANESE = "磁場の強さが2倍になると、運動エネルギーはどうなりますか。"
KOREAN = "수소 원자의 운동에너지는 얼마인가? 자기장의 세기는 일정하다."
THAI = "ความเร็วของรถเป็นเท่าไร ถ้าน้ำหนักเท่ากัน"
HINDI = "यदि विद्युत धारा दुगुनी हो तो प्रतिरोध का मान क्या होगा?"
SPANISH = "¿Cuál es la energía cinética de la masa si la respuesta de la cuerda es elástica?"


@pytest.mark.parametrize(
    ("question", "term", "expected"),
    [
        (CHINESE, "加速度", "match:加速度"),
        (CHINESE, "牛顿第二定律", "match:牛顿第二定律"),
        (CHINESE, "汽车的质量", "match:汽车"),
        (CHINESE, "pH", "match:ph"),
        (CHINESE, "ｐＨ值", "match:ph值"),
        (CHINESE, "质量", "no_match"),
        (CHINESE, "力", "all_generic"),
        (CHINESE, "零", "all_generic"),
        (CHINESE, "正确答案", "all_generic"),
        (CHINESE, "计算的答案", "all_generic"),
        (JAPANESE, "磁場", "match:磁場"),
        (JAPANESE, "磁場の向き", "match:磁場"),
        (JAPANESE, "ｴﾈﾙｷﾞｰ", "match:エネルギー"),
        (JAPANESE, "電場", "no_match"),
        (JAPANESE, "正しい答え", "all_generic"),
        (KOREAN, "에너지", "match:에너지"),
        (KOREAN, "자기장이", "match:자기장"),
        (KOREAN, "수소", "match:수소"),
        (KOREAN, "질량", "no_match"),
        (KOREAN, "정답은", "all_generic"),
        (THAI, "ความเร็ว", "match:ความเร็ว"),
        (THAI, "น้ำหนัก", "match:น้ําหนัก"),
        (THAI, "แรง", "no_match"),
        (THAI, "น้ำ", "match:น้ํา"),
        (HINDI, "प्रतिरोध", "match:प्रतिरोध"),
        (HINDI, "प्रति", "no_match"),
        (HINDI, "धारा", "match:धारा"),
        (HINDI, "धा", "all_generic"),
        (HINDI, "सही उत्तर", "all_generic"),
        (SPANISH, "energía", "match:energía"),
        (SPANISH, "energi\u0301a", "match:energía"),
        (SPANISH, "la respuesta", "all_generic"),
        ("שאלה: מהו הכֹּחַ?", "הכֹּחַ", "match:הכֹּחַ"),
        ("Si atoms per cell of Al", "Si", "match:si"),
    ],
)
def test_words_of_other_scripts(question: str, term: str, expected: str) -> None:
    assert verdict(f"<concept>{term}</concept> x", question) == expected.replace("\u0e33", "\u0e4d\u0e32")


@pytest.mark.parametrize("letter", ["x", "α", "я", "é", "e\u0301", "क", "कि", "ก", "ع", "力", "힘", "あ", "\U00020000"])
def test_one_letter_anchors_in_no_script(letter: str) -> None:
    question = f"Which {letter} is it, {letter}{letter} or {letter}?"
    assert verdict(f"<concept>{letter}</concept> x", question) == "all_generic"


@pytest.mark.parametrize("end", ["。", "！", "？」"])
def test_long_feedback_without_blanks_is_cut_at_a_sentence(end: str) -> None:
    _, text = process("<concept>加速度</concept>" + f"请再检查第二步的符号{end}" * 400, CHINESE)
    assert text is not None and len(text) <= MAX_FEEDBACK_CHARS and text.endswith(end)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (None, None),
        ("no tag", None),
        ("<concept>net\n force</concept>", "net force"),
        ("< Concept ></ concept >", ""),
        ("＜concept＞mass＜/concept＞", "mass"),
        ("<concept>a<concept>b</concept>", None),
        ("<think><concept>decoy</concept></think><concept>mass</concept>", "mass"),
    ],
)
def test_concept(raw: str | None, expected: str | None) -> None:
    assert concept(raw) == expected


def test_the_first_tag_goes_with_its_word_and_later_tags_leave_theirs() -> None:
    raw = "<concept>mass</concept>\nThe <concept>force</concept> is off. The answer is B."
    assert process(raw, PROBLEM) == ("match:mass", "The force is off.")


def test_a_reveal_put_together_by_the_tag_is_found() -> None:
    assert process("The ans<concept>mass</concept>wer is B. Look at the unit.", PROBLEM)[1] == "Look at the unit."


def test_a_review_shows_what_was_dropped_and_why() -> None:
    review = review_feedback("<concept>laws</concept> Look again. The answer is B.", PROBLEM)
    assert (review.verdict, review.concept, review.delivered) == ("no_match", "laws", None)
    assert review.body == "Look again."
    assert [removal.reason for removal in review.removals] == ["concept_tag", "blank", "reveal"]


def test_feedback_without_sentences_is_cut_at_a_word() -> None:
    review = review_feedback("<concept>mass</concept>" + "unit " * 1000, PROBLEM)
    assert review.delivered is not None and len(review.delivered) <= MAX_FEEDBACK_CHARS
    assert review.delivered.endswith("unit")
    assert "over_long" in {removal.reason for removal in review.removals}


def test_one_endless_word_is_cut_at_the_cap() -> None:
    _, text = process("<concept>mass</concept>" + "u" * 9000, PROBLEM)
    assert text == "u" * MAX_FEEDBACK_CHARS


@pytest.mark.parametrize(
    "last", ["Please reason step by step.", "please think step-by-step", "Let's think step by step."]
)
def test_the_instruction_line_is_dropped(last: str) -> None:
    assert without_instruction_line(f"Which?\n\nA: 1\n{last}\n") == "Which?\n\nA: 1"


@pytest.mark.parametrize("problem", ["Please reason step by step.", "Which?\n\nA: reason step by step along x"])
def test_a_line_that_is_part_of_the_question_stays(problem: str) -> None:
    assert without_instruction_line(problem) == problem


@pytest.mark.parametrize("ask", [feedback_prompt, naive_feedback_prompt])
def test_both_prompts_hold_the_question_the_attempt_and_the_domains(ask: Callable[..., str]) -> None:
    prompt = ask(f"{PROBLEM}\nPlease reason step by step.", "I say {x}", peer_domain="physics", agent_domain="botany")
    assert PROBLEM in prompt and "I say {x}" in prompt
    assert prompt.index("physics") < prompt.index("botany")
    assert "reason step by step" not in prompt
    assert "{fence}" not in prompt


def test_only_the_full_prompt_asks_for_a_concept() -> None:
    domains = {"peer_domain": "physics", "agent_domain": "botany"}
    assert "<concept>" in feedback_prompt("q", "r", **domains)
    assert "concept" not in naive_feedback_prompt("q", "r", **domains)


@given(st.text(alphabet="`\n ab{}", max_size=60))
def test_an_attempt_cannot_close_its_fence(response: str) -> None:
    prompt = feedback_prompt("q", response, peer_domain="physics", agent_domain="botany")
    fence = max(re.findall(r"`+", prompt), key=len)
    assert len(fence) >= 3 and fence not in response
    assert prompt.count(fence) == 4
    assert f"{fence}\n{response}\n{fence}" in prompt
