"""The multiple-choice format."""

import pytest

from shared.problems.mcq import McqFormat
from shared.problems.problem import Problem

FORMAT = McqFormat()
PROBLEM = Problem(
    id="physics-1",
    domain="physics",
    kind="mcq",
    question=(
        "A damped pendulum loses {half} of its energy.\n\nFind the frequency ratio.\n\n"
        "A: $\\frac{1}{2}$\nB: 0.99\n\nC: $\\mathrm{CO_2}$\nD: 1\nPlease reason step by step."
    ),
    answer="B",
    system="\nPick one option.\n<answer>\nA\n</answer>\n",
)


def test_system_and_question_arrive_byte_for_byte() -> None:
    messages = FORMAT.messages(PROBLEM)
    assert [(message.role, message.content) for message in messages] == [
        ("system", PROBLEM.system),
        ("user", PROBLEM.question),
    ]


def test_without_a_system_message_there_is_one_turn() -> None:
    bare = Problem("p", "d", "", PROBLEM.question, "B")
    assert [message.role for message in FORMAT.messages(bare)] == ["user"]


def test_the_anchor_text_ends_with_the_options() -> None:
    text = FORMAT.anchor_text(PROBLEM)
    assert text.endswith("D: 1")
    assert text + "\nPlease reason step by step." == PROBLEM.question


def test_a_question_without_the_fixed_line_is_anchored_whole() -> None:
    question = "Which is it?\nA: one\nB: two"
    assert FORMAT.anchor_text(Problem("p", "d", "", question, "B")) == question


def test_grading_is_strict_and_beside_it_lenient() -> None:
    text = "Because.\n<answer>(B)</answer>"
    assert (FORMAT.grade(text, "B"), FORMAT.grade_lenient(text, "B"), FORMAT.format_ok(text)) == (0.0, 1.0, True)
    assert (FORMAT.grade("B", "B"), FORMAT.grade_lenient("B", "B"), FORMAT.format_ok("B")) == (1.0, 1.0, False)


def test_the_teacher_without_material_is_the_student() -> None:
    assert FORMAT.teacher_messages(PROBLEM, solution=None, feedback=None) == FORMAT.messages(PROBLEM)


def test_the_teacher_sees_system_question_solution_and_feedback() -> None:
    messages = FORMAT.teacher_messages(PROBLEM, solution="it is nearly one", feedback="check the damping")
    assert messages[0] == FORMAT.messages(PROBLEM)[0]
    assert len(messages) == 2
    places = [messages[1].content.index(part) for part in (PROBLEM.question, "nearly one", "check the damping")]
    assert places == sorted(places)
    assert places[0] == 0


def test_the_tutor_sees_domains_question_and_response_but_not_the_fixed_line() -> None:
    messages = FORMAT.feedback_messages(PROBLEM, "I {problem} think C", peer_domain="materials", agent_domain="optics")
    content = "\n".join(message.content for message in messages)
    for part in ("materials", "optics", FORMAT.anchor_text(PROBLEM), "I {problem} think C"):
        assert part in content
    assert "Please reason step by step." not in content


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("<reasoning>x</reasoning>\n<answer>\nB\n</answer>", 1.0),
        ("B", 1.0),
        ("<answer>b</answer>", 0.0),
        ("<answer>A</answer> or <answer>B", 1.0),
        ("<answer>B</answer><answer>", 0.0),
    ],
)
def test_grading_is_the_published_one(text: str, score: float) -> None:
    assert FORMAT.grade(text, "B") == score


def test_feedback_is_anchored_in_stem_or_options_only() -> None:
    judged = FORMAT.judge_feedback("<concept>pendulum</concept> Recheck. Final answer: B", PROBLEM)
    verdict, clean = judged.verdict, judged.delivered
    assert verdict == "match:pendulum"
    assert clean is not None
    assert clean.strip() == "Recheck."
    judged = FORMAT.judge_feedback("<concept>reason</concept> Recheck.", PROBLEM)
    verdict, clean = judged.verdict, judged.delivered
    assert not verdict.startswith("match")
    assert clean is None


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("b", "one capital letter from A to J as answer, got 'b'; write it as 'B'"),
        ("(B).", "; write it as 'B'"),
        ("AB", "one capital letter"),
        # Its reveals would not be taken out of feedback.
        ("K", "one capital letter from A to J"),
        ("E", "option line 'E: …'"),
    ],
)
def test_an_answer_that_is_no_option_is_refused(answer: str, message: str) -> None:
    assert message in (FORMAT.refusal(Problem("p", "d", "", PROBLEM.question, answer)) or "")


@pytest.mark.parametrize("written", ["B) two", "(B) two", "B. two", "  B: two", "B：two", "B:two"])
def test_options_that_are_written_otherwise_are_told_as_they_are(written: str) -> None:
    refused = FORMAT.refusal(Problem("p", "d", "", f"Which?\n{written.replace('B', 'A')}\n{written}", "B"))
    assert refused is not None and f"found {written!r}; write it as 'B: two', and the other" in refused


def test_the_text_of_an_option_is_told_with_its_letter() -> None:
    refused = FORMAT.refusal(Problem("p", "d", "", "Which?\nA: one\nB: two of it", "two of it"))
    assert refused is not None and refused.endswith("got 'two of it'; write it as 'B'")


def test_one_option_is_no_choice() -> None:
    refused = FORMAT.refusal(Problem("p", "d", "", "Which?\nA) one\nB: two", "B"))
    assert refused is not None and "two or more option lines" in refused and "got one, 'B: …'" in refused


def test_a_good_row_is_held() -> None:
    assert FORMAT.refusal(PROBLEM) is None
