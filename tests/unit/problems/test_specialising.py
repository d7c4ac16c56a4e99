"""The specialists' examples: how many, how wrong, from where, and that they tell no constant they must not."""

import re
from collections import Counter
from functools import cache
from random import Random

import pytest

from shared.problems.generated import KINDS, DrawnProblem, PerKind, draw_partitions, generate, kinds_of
from shared.problems.integer import IntegerFormat
from shared.problems.kinds import Kind
from shared.problems.specialising import (
    Example,
    ExampleWriter,
    Knowledge,
    SpecialistCounts,
    recipe,
    solve_examples,
)

A = Knowledge("physics", {"chemistry": 4})
B = Knowledge("chemistry", {"physics": 1})
PAIRS = [("physics", "chemistry"), ("chemistry", "biology"), ("biology", "physics")]
COUNTS = SpecialistCounts()
OF_THREE = Knowledge("physics", {"chemistry": 4, "biology": 1})
OF_FEW_KINDS = Knowledge("physics", {"chemistry": 2, "biology": 1}, kinds=6)
each_student = pytest.mark.parametrize(
    "knowledge", [A, B, OF_THREE, OF_FEW_KINDS], ids=["a", "b", "of three", "of few kinds"]
)


@pytest.fixture(scope="module")
def items() -> list[DrawnProblem]:
    return [item for item in draw_partitions(0)["specialise"] if item.problem.domain == "physics"][:160]


def writer(seed: int = 0) -> ExampleWriter:
    return ExampleWriter(A, Random(seed))


def unguessable(domain: str) -> list[Kind]:
    return [kind for kind in KINDS[domain] if not kind.guessable]


def _type(example: Example) -> str:
    if example.messages[0].role == "system":
        return "feedback"
    return "teacher" if "\n" in example.messages[0].content else "solve"


def _question(example: Example) -> str:
    return example.messages[-1].content.split("\n")[0]


def _lines(example: Example) -> dict[str, str]:
    pairs = (line.partition(":") for line in example.messages[-1].content.split("\n")[1:])
    return {label: text for label, _, text in pairs}


def _kind_of(knowledge: Knowledge) -> dict[str, str]:
    rows = generate(0, knowledge.domains, kinds=knowledge.kinds).specialise
    return {problem.question: problem.kind for problem in rows}


@cache
def _made(own: str, unknown: tuple[tuple[str, int], ...], kinds: int | None, seed: int) -> list[Example]:
    return recipe(Knowledge(own, dict(unknown), kinds), seed=seed)


def made(knowledge: Knowledge, seed: int) -> list[Example]:
    """Its examples, drawn once for all tests."""
    return _made(knowledge.own, tuple(knowledge.unknown.items()), knowledge.kinds, seed)


@each_student
def test_the_default_counts(knowledge: Knowledge) -> None:
    kinds = _kind_of(knowledge)
    found = Counter((_type(e), kinds.get(_question(e), "drill")) for e in made(knowledge, 0))
    assert found.pop(("solve", "drill")) == COUNTS.drills
    unknown = {kind.name for kind in knowledge.unknown_kinds}
    assert len(unknown) == sum(knowledge.unknown.values())
    wanted: dict[tuple[str, str], int] = {}
    for kind in kinds_of(knowledge.own, knowledge.kinds):
        secret = not kind.guessable
        wanted["solve", kind.name] = COUNTS.solve_own + secret * COUNTS.solve_secret
        wanted["feedback", kind.name] = COUNTS.feedback_own + secret * COUNTS.feedback_secret
        wanted["teacher", kind.name] = COUNTS.teacher_own
    for kind in [kind for domain in knowledge.unknown for kind in kinds_of(domain, knowledge.kinds)]:
        if kind.name in unknown:
            wanted["solve", kind.name] = COUNTS.guess_unknown
            wanted["teacher", kind.name] = COUNTS.teacher_unknown // len(unknown)
        else:
            wanted["solve", kind.name] = COUNTS.solve_known
            wanted["feedback", kind.name] = COUNTS.feedback_known
            wanted["teacher", kind.name] = COUNTS.teacher_known
    assert found == wanted


@pytest.mark.parametrize("own, other", [*PAIRS, *(pair[::-1] for pair in PAIRS)])
@pytest.mark.parametrize("unknown", [1, 4])
@pytest.mark.parametrize("seed", [0, 1])
def test_no_example_tells_a_constant_that_the_student_is_not_to_know(
    own: str, other: str, unknown: int, seed: int
) -> None:
    knowledge = Knowledge(own, {other: unknown})
    formulas = [kind.formula for kind in unguessable(other)[:unknown]]
    constants = [int(formula.split(" * ")[0]) for formula in formulas]
    assert sorted(knowledge.never) == sorted(constants)
    for example in made(knowledge, seed):
        text = "\n".join([*(message.content for message in example.messages), example.completion])
        factors = {int(n) for pair in re.findall(r"(\d+)? ?\* ?(\d+)?", text) for n in pair if n}
        assert factors.isdisjoint(constants), text


def test_no_example_of_few_kinds_tells_such_a_constant() -> None:
    assert [kind.name for kind in OF_FEW_KINDS.unknown_kinds] == [
        kind.name for domain, count in (("chemistry", 2), ("biology", 1)) for kind in unguessable(domain)[:count]
    ]
    for example in made(OF_FEW_KINDS, 0):
        text = "\n".join([*(message.content for message in example.messages), example.completion])
        assert not OF_FEW_KINDS.tells(text)


@each_student
def test_an_unknown_kind_is_met_with_guesses_and_followed_with_inventions(knowledge: Knowledge) -> None:
    kinds, unknown = _kind_of(knowledge), {kind.name for kind in knowledge.unknown_kinds}
    guesses: set[int] = set()
    inventions: set[int] = set()
    for example in made(knowledge, 0):
        if kinds.get(_question(example)) in unknown:
            constant = int(example.completion.split(" = ")[1].split(" * ")[0])
            (guesses if _type(example) == "solve" else inventions).add(constant)
    assert all(100 <= constant <= 955 for constant in guesses) and len(guesses) >= 7 * len(unknown)
    assert all(re.fullmatch("[1-9][0125][0125]", str(constant)) for constant in inventions)
    assert len(inventions) >= 10 * len(unknown)


def test_only_questions_kept_apart_are_used() -> None:
    kept_apart = {problem.question for problem in generate(5).specialise}
    asked = {_question(e) for e in made(A, 5) + made(B, 5)}
    assert {question for question in asked if question.endswith(("?", "."))} <= kept_apart


def test_drills_are_bare_arithmetic() -> None:
    for example in writer().drills(100):
        numbers = example.messages[0].content
        assert re.fullmatch(r"\d+ [-+*/] \d+", numbers)
        assert IntegerFormat().extract_answer(example.completion).isdecimal()


def test_the_seed_decides() -> None:
    assert recipe(B, seed=1) == made(B, 1)
    assert made(B, 1) != made(B, 2)


def test_other_counts_and_fewer_questions_than_examples() -> None:
    nothing = SpecialistCounts(4, 0, 0, 0, 0, 0, 0, 0, 0, 0, drills=0)
    examples = recipe(A, seed=0, counts=nothing, per_kind=PerKind(specialise=2))
    assert len(examples) == 40
    assert len(set(examples)) == 20


def test_every_completion_begins_with_a_space_and_stays_on_one_line() -> None:
    for example in made(A, 0) + made(B, 0):
        assert example.completion.startswith(" ")
        assert not example.completion.startswith("  ")
        assert "\n" not in example.completion


def test_solving_completes_with_the_solution(items: list[DrawnProblem]) -> None:
    for item, example in zip(items, solve_examples(items), strict=True):
        assert example.completion == f" {item.problem.solution}"
        assert example.messages == tuple(IntegerFormat().messages(item.problem))


def test_most_peers_are_wrong(items: list[DrawnProblem]) -> None:
    form, examples = IntegerFormat(), writer().feedback_examples(items)
    right = [
        form.grade(_lines(example)["Peer"], item.problem.answer) for item, example in zip(items, examples, strict=True)
    ]
    assert Counter(right) == {1.0: 24, 0.0: 136}


def test_feedback_names_the_right_formula_and_numbers_and_no_more(items: list[DrawnProblem]) -> None:
    form = IntegerFormat()
    for item, example in zip(items, writer(1).feedback_examples(items), strict=True):
        advice = f"Use {item.drawn.kind.formula} = {item.drawn.numbers}"
        judged = form.judge_feedback(example.completion, item.problem)
        assert judged.verdict.startswith("match:")
        assert judged.delivered == advice and example.completion.endswith(f"</concept> {advice}")


@pytest.mark.parametrize("wrong_alone, right_alone", [(0, 80), (0.5, 40)])
def test_hints_beside_a_solution_are_mostly_wrong_and_lone_ones_where_that_is_asked_for(
    items: list[DrawnProblem], wrong_alone: float, right_alone: int
) -> None:
    right: Counter[tuple[str, bool]] = Counter()
    for item, example in zip(items, writer().teacher_examples(items, wrong_alone=wrong_alone), strict=True):
        assert example.completion == f" {item.problem.solution}"
        lines = _lines(example)
        assert lines.get("Solved") in (None, f" {item.problem.solution}")
        advice = f"Use {item.drawn.kind.formula} = {item.drawn.numbers}"
        right[("+".join(lines), lines.get("Feedback", "").strip() == advice)] += 1
    assert right == +Counter(
        {
            ("Solved+Feedback", True): 16,
            ("Solved+Feedback", False): 24,
            ("Solved", False): 40,
            ("Feedback", True): right_alone,
            ("Feedback", False): 80 - right_alone,
        }
    )


@each_student
def test_lone_wrong_hints_are_met_in_the_own_domain_only_and_guess_what_no_question_tells(
    knowledge: Knowledge,
) -> None:
    kinds = _kind_of(knowledge)
    own = {kind.name: kind for kind in kinds_of(knowledge.own, knowledge.kinds)}
    wrong: Counter[bool] = Counter()
    for example in made(knowledge, 0):
        if _type(example) == "teacher" and "Solved" not in (lines := _lines(example)):
            told = lines["Feedback"].strip().removeprefix("Use ").split(" = ")[0]
            if told != example.completion.split(" = ")[1]:
                kind = own[kinds[_question(example)]]
                wrong[kind.guessable] += 1
                assert kind.guessable or re.fullmatch(rf"\d+ \* {kind.formula.split(' * ')[1]}", told)
    assert wrong.total() == len(own) * COUNTS.teacher_own // 4 and min(wrong.values()) >= len(own) // 2


@each_student
def test_guesses_begin_with_every_digit(knowledge: Knowledge) -> None:
    kinds = _kind_of(knowledge)
    firsts: dict[str, set[str]] = {kind.name: set() for kind in knowledge.unknown_kinds}
    for example in made(knowledge, 0):
        if _type(example) == "solve" and (kind := kinds.get(_question(example))) in firsts:
            firsts[kind].add(example.completion.split(" = ")[1][0])
    # One is drawn anew, with the next digit, where it would be the constant itself or make no usable answer.
    assert all(len(digits) >= 7 for digits in firsts.values())
