"""The specialists' examples: how many, how wrong, from where."""

from collections import Counter
from random import Random

import pytest

from shared.problems.examples import (
    FIRST_STUDENT,
    SECOND_STUDENT,
    Example,
    SpecialistCounts,
    StudentName,
    feedback_examples,
    recipe,
    solve_examples,
    teacher_examples,
)
from shared.problems.generated import DrawnProblem, PerKind, draw_partitions, generate
from shared.problems.integer import IntegerFormat


@pytest.fixture(scope="module")
def items() -> list[DrawnProblem]:
    return [item for item in draw_partitions(0)["specialise"] if item.problem.domain == "physics"][:160]


def _type(example: Example) -> str:
    if example.messages[0].role == "system":
        return "feedback"
    return "teacher" if "\n" in example.messages[0].content else "solve"


def _question(example: Example) -> str:
    return example.messages[-1].content.split("\n")[0]


def _lines(example: Example) -> dict[str, str]:
    pairs = (line.partition(":") for line in example.messages[-1].content.split("\n")[1:])
    return {label: text for label, _, text in pairs}


@pytest.mark.parametrize(
    ("student", "total", "types"),
    [
        ("a", 328, {"solve": 8 * (6 + 1), "feedback": 8 * 22, "teacher": 8 * 12}),
        ("b", 424, {"solve": 8 * (7 + 6), "feedback": 8 * (22 + 6), "teacher": 8 * 12}),
    ],
)
def test_the_default_counts(student: StudentName, total: int, types: dict[str, int]) -> None:
    examples = recipe(student, seed=0)
    assert len(examples) == total
    assert Counter(map(_type, examples)) == types


@pytest.mark.parametrize(
    ("student", "own", "counts"), [("a", "physics", FIRST_STUDENT), ("b", "chemistry", SECOND_STUDENT)]
)
def test_the_counts_of_each_domain(student: StudentName, own: str, counts: SpecialistCounts) -> None:
    domain_of = {problem.question: problem.domain for problem in generate(0).specialise}
    found = Counter((_type(e), domain_of[_question(e)] == own) for e in recipe(student, seed=0))
    assert found[("solve", True)] == 8 * counts.solve_own
    assert found[("solve", False)] == 8 * counts.solve_other
    assert found[("feedback", True)] == 8 * counts.feedback_own
    assert found[("feedback", False)] == 8 * counts.feedback_other
    assert found[("teacher", True)] == 8 * counts.teacher_own
    assert found[("teacher", False)] == 8 * counts.teacher_other


def test_only_questions_kept_apart_are_used() -> None:
    rows = generate(5)
    kept_apart = {problem.question for problem in rows.specialise}
    assert {_question(e) for e in recipe("a", seed=5) + recipe("b", seed=5)} <= kept_apart


def test_the_seed_decides() -> None:
    assert recipe("b", seed=1) == recipe("b", seed=1)
    assert recipe("b", seed=1) != recipe("b", seed=2)


def test_other_counts_and_fewer_questions_than_examples() -> None:
    counts = SpecialistCounts(
        solve_own=4, solve_other=0, feedback_own=0, feedback_other=0, teacher_own=0, teacher_other=0
    )
    examples = recipe("a", seed=0, counts=counts, per_kind=PerKind(specialise=2))
    assert len(examples) == 32
    assert len(set(examples)) == 16


def test_every_completion_begins_with_a_space_and_stays_on_one_line() -> None:
    for example in recipe("a", seed=0) + recipe("b", seed=0):
        assert example.completion.startswith(" ")
        assert not example.completion.startswith("  ")
        assert "\n" not in example.completion


def test_solving_completes_with_the_solution(items: list[DrawnProblem]) -> None:
    for item, example in zip(items, solve_examples(items), strict=True):
        assert example.completion == f" {item.problem.solution}"
        assert example.messages == tuple(IntegerFormat().messages(item.problem))


def test_three_of_four_peers_are_wrong_and_the_verdicts_say_how(items: list[DrawnProblem]) -> None:
    examples = feedback_examples(items, Random(0))
    verdicts = Counter(example.completion.split("</concept> ")[1].split(".")[0] for example in examples)
    assert verdicts == {"Correct": 40, "Wrong formula": 86, "Wrong arithmetic": 17, "Wrong numbers": 17}
    form = IntegerFormat()
    for item, example in zip(items, examples, strict=True):
        right = form.grade(_lines(example)["Peer"], item.problem.answer) == 1.0
        assert right is ("Correct." in example.completion)


def test_feedback_ends_with_the_right_formula_and_numbers(items: list[DrawnProblem]) -> None:
    form = IntegerFormat()
    for item, example in zip(items, feedback_examples(items, Random(1)), strict=True):
        ending = f"Use {item.drawn.kind.formula} with {item.drawn.numbers}."
        assert example.completion.endswith(ending)
        judged = form.judge_feedback(example.completion, item.problem)
        verdict, clean = judged.verdict, judged.delivered
        assert verdict.startswith("match:")
        assert clean is not None
        assert clean.endswith(ending)


def test_hints_beside_a_solution_are_mostly_wrong_and_lone_hints_right(items: list[DrawnProblem]) -> None:
    right: Counter[tuple[str, bool]] = Counter()
    for item, example in zip(items, teacher_examples(items, Random(0)), strict=True):
        assert example.completion == f" {item.problem.solution}"
        lines = _lines(example)
        assert lines.get("Solved") in (None, f" {item.problem.solution}")
        ending = f"Use {item.drawn.kind.formula} with {item.drawn.numbers}."
        right[("+".join(lines), lines.get("Feedback", "").endswith(ending))] += 1
    assert right == {
        ("Solved+Feedback", True): 22,
        ("Solved+Feedback", False): 32,
        ("Solved", False): 53,
        ("Feedback", True): 53,
    }
