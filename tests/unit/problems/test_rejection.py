"""Rejection sampling: which of the drawn answers are kept, and what is said where they are too few."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from shared.config.loading import load_settings
from shared.config.specializing import SamplingSection
from shared.errors import ConfigError
from shared.problems.examples import read_examples
from shared.problems.formats import format_named
from shared.problems.loading import load_problem_set
from shared.problems.problem import Problem
from shared.problems.rejection import (
    DrawnAnswer,
    DrawnAnswers,
    Rejection,
    keep_right,
    own_problems,
    require_enough,
)
from tests.fakes.sciknoweval import two_domains

FORM = format_named("integer")
PROBLEMS = [Problem(f"p{n}", "physics", "", f"What is {n} + 1?", str(n + 1)) for n in range(3)]


def drawn(*texts: Sequence[str | DrawnAnswer]) -> list[DrawnAnswers]:
    """Answers to the problems in order; a text is an answer that ended."""
    return [
        DrawnAnswers(
            problem_id=problem.id,
            answers=tuple(DrawnAnswer(text=each, ended=True) if isinstance(each, str) else each for each in answers),
        )
        for problem, answers in zip(PROBLEMS, texts, strict=True)
    ]


def kept(found: Rejection) -> list[tuple[str, str]]:
    return [(row.messages[-1].content, row.completion) for row in found.examples]


def asked(problem: Problem) -> str:
    return FORM.messages(problem)[-1].content


def test_right_answers_are_kept_in_the_order_drawn_and_no_more_than_so_many_of_a_problem() -> None:
    answers = drawn(
        ["x = 7", "0 + 1 = 1", "x = 1", "so x = 1"], ["= 9", "= 8", "= 7", "2"], ["it is = 3", "= 4", "= 4", "= 4"]
    )
    found = keep_right(PROBLEMS, answers, FORM, keep=2)
    first, _, third = PROBLEMS
    assert kept(found) == [(asked(first), "0 + 1 = 1"), (asked(first), "x = 1"), (asked(third), "it is = 3")]
    assert (found.problems, found.solved, found.answers, found.right) == (3, 2, 12, 4)


def test_the_longest_answer_is_as_good_as_the_shortest() -> None:
    answers = ["0 + 1, that is one more than nothing, = 1", "= 1"]
    for order in (answers, answers[::-1]):
        found = keep_right(PROBLEMS[:1], drawn(order, [], [])[:1], FORM, keep=1)
        assert [row.completion for row in found.examples] == order[:1]


def test_one_text_is_one_example_however_often_it_was_drawn() -> None:
    found = keep_right(PROBLEMS, drawn(["= 1", "= 1", "= 1"], [], []), FORM, keep=3)
    assert (len(found.examples), found.right) == (1, 3)


@pytest.mark.parametrize("refused", [DrawnAnswer(text="= 1", ended=False), DrawnAnswer(text="\0 = 1", ended=True)])
def test_an_answer_that_was_cut_or_that_no_file_takes_is_not_kept(refused: DrawnAnswer) -> None:
    found = keep_right(PROBLEMS, drawn([refused], [], []), FORM, keep=1)
    assert not found.examples
    assert (found.solved, found.cut) == (0, int(not refused.ended))


def test_what_is_kept_is_a_file_of_examples(tmp_path: Path) -> None:
    source = f"sciknoweval:{two_domains(tmp_path)}"
    problems = load_problem_set(source, domains=("optics", "acids"), validation_per_domain=2)
    asked = [problem for problem in problems.train if problem.domain == "optics"]
    answers = [
        DrawnAnswers(
            problem_id=problem.id,
            answers=(DrawnAnswer(text=f"<reasoning>…</reasoning>\n<answer>\n{problem.answer}\n</answer>", ended=True),),
        )
        for problem in asked
    ]
    found = keep_right(asked, answers, problems.format, keep=2)
    file = tmp_path / "examples.jsonl"
    file.write_text("".join(row.model_dump_json() + "\n" for row in found.examples))
    examples = read_examples(file, problems)
    assert [example.messages for example in examples] == [tuple(problems.format.messages(each)) for each in asked]
    assert [example.completion for example in examples] == [each.answers[0].text for each in answers]


def test_too_few_are_refused_with_how_many_of_how_many_and_what_to_do() -> None:
    cut = DrawnAnswer(text="0 + 1 is", ended=False)
    found = keep_right(PROBLEMS, drawn(["= 1", "= 2", cut], ["= 9", "= 9", "= 9"], ["= 9", "= 9", "= 9"]), FORM, keep=2)
    section = SamplingSection(min_examples=2, samples=3, max_tokens=7)
    require_enough(found, SamplingSection(min_examples=1), "a")
    with pytest.raises(ConfigError, match=r"^students\.a\.specialize: expected 2 right answers") as refused:
        require_enough(found, section, "a")
    said = str(refused.value)
    assert "kept 1: 1 of 3 problems were solved; of 9 answers 1 were right, 1 were cut" in said
    for advice in ("max_tokens = 7", "samples = 3", "students.a.model", "students.a.examples"):
        assert advice in said


def test_nothing_is_drawn_where_all_right_answers_would_be_too_few(tmp_path: Path) -> None:
    overrides = [f"problems.source=sciknoweval:{two_domains(tmp_path)}", "problems.validation_per_domain=2"]
    overrides += ["students.a.domain=optics", "students.b.domain=acids"]
    settings = load_settings(preset="phys-chem", overrides=overrides, environ={})
    problems = load_problem_set(settings.problems.source, domains=("optics", "acids"), validation_per_domain=2)
    with pytest.raises(ConfigError, match=re.escape("expected at most 20 for student a")):
        own_problems(settings, "a", problems)
    enough = load_settings(preset="phys-chem", overrides=[*overrides, "specialize.sampling.min_examples=20"])
    assert {problem.domain for problem in own_problems(enough, "b", problems)} == {"acids"}
    assert set(own_problems(enough, "b", problems)) <= set(problems.train)
