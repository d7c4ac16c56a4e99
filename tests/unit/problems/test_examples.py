"""Examples to fine-tune on: from a file, with every fault named, or from the generated problems."""

import json
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from shared.config.loading import load_settings
from shared.config.settings import RunSettings
from shared.errors import ConfigError, ProblemSetError
from shared.problems.examples import examples_for, read_examples
from shared.problems.generated import generate
from shared.problems.problem import ProblemSet
from shared.problems.specialising import Knowledge, recipe
from tests.fakes.sciknoweval import two_domains

GOOD = {
    "messages": [{"role": "system", "content": "\nBe brief.\n"}, {"role": "user", "content": "What is μ?"}],
    "completion": "<reasoning>\nIt is small.\n</reasoning>\n<answer>\nA\n</answer>",
}


@pytest.fixture(scope="module")
def problems() -> ProblemSet:
    return generate(0)


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def settings(*overrides: str) -> RunSettings:
    return load_settings(preset="smoke", overrides=overrides, environ={})


def test_rows_arrive_as_they_are(tmp_path: Path, problems: ProblemSet) -> None:
    (example,) = read_examples(write(tmp_path / "e.jsonl", GOOD), problems)
    assert [(message.role, message.content) for message in example.messages] == [
        ("system", "\nBe brief.\n"),
        ("user", "What is μ?"),
    ]
    assert example.completion == GOOD["completion"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"completion": 3}, r"e.jsonl:2: completion: expected a valid string, got 3"),
        ({"completion": ""}, r"e.jsonl:2: completion: expected at least 1 character, got ''"),
        ({"completion": " \n"}, r"e.jsonl:2: completion: expected an answer to learn"),
        ({"messages": []}, r"e.jsonl:2: messages: "),
        ({"messages": [{"role": "user"}]}, r"e.jsonl:2: expected the field 'messages.0.content', it is missing"),
        ({"messages": [{"role": "judge", "content": "x"}]}, r"e.jsonl:2: messages.0.role: expected .*, got 'judge'"),
        (
            {"messages": [*GOOD["messages"], {"role": "assistant", "content": "x"}]},
            r"e.jsonl:2: messages: expected the last one to be the user's, got role 'assistant'",
        ),
        ({"answer": "A"}, r"e.jsonl:2: expected only the fields messages, completion, got 'answer'"),
    ],
)
def test_a_bad_row_is_refused_with_file_and_line(
    tmp_path: Path, problems: ProblemSet, change: dict[str, object], message: str
) -> None:
    with pytest.raises(ProblemSetError, match=message):
        read_examples(write(tmp_path / "e.jsonl", GOOD, GOOD | change), problems)


def test_a_question_of_the_test_partition_is_refused(tmp_path: Path, problems: ProblemSet) -> None:
    question = problems.test[3].question.upper()
    leak = GOOD | {"messages": [{"role": "user", "content": question}]}
    with pytest.raises(ProblemSetError, match=rf"e.jsonl:2: .* got that of '{problems.test[3].id}'"):
        read_examples(write(tmp_path / "e.jsonl", GOOD, leak), problems)


def test_a_question_of_the_validation_partition_is_left_out_and_told(tmp_path: Path, problems: ProblemSet) -> None:
    asked = GOOD | {"messages": [{"role": "user", "content": problems.validation[3].question}]}
    path = write(tmp_path / "e.jsonl", asked, GOOD, asked)
    with capture_logs() as told:
        (example,) = read_examples(path, problems)
    assert example.messages[-1].content == "What is μ?"
    assert [(each["left_out"], each["kept"]) for each in told] == [(2, 1)]
    with pytest.raises(ProblemSetError, match="all 1 ask questions of the validation partition"):
        read_examples(write(path, asked), problems)


@pytest.mark.parametrize(("rows", "message"), [((), "the file has none"), (None, "cannot read it")])
def test_a_file_without_rows_is_refused(
    tmp_path: Path, problems: ProblemSet, rows: tuple[()] | None, message: str
) -> None:
    path = tmp_path / "e.jsonl"
    if rows is not None:
        write(path, *rows)
    with pytest.raises(ProblemSetError, match=message):
        read_examples(path, problems)


def test_a_file_comes_before_the_generated_examples(tmp_path: Path) -> None:
    path = write(tmp_path / "e.jsonl", GOOD)
    chosen = settings("students.a.specialize=true", f"students.a.examples={path}", "students.b.specialize=true")
    assert [example.completion for example in examples_for(chosen, "a")] == [GOOD["completion"]]
    assert examples_for(chosen, "b") == tuple(recipe(Knowledge("chemistry", {"physics": 0}), seed=0))


def test_problems_that_bring_no_examples_need_a_file(tmp_path: Path) -> None:
    chosen = settings(
        f"problems.source=sciknoweval:{two_domains(tmp_path)}",
        "problems.format=mcq",
        "students.a.domain=optics",
        "students.b.domain=acids",
        "students.a.specialize=true",
    )
    with pytest.raises(ConfigError, match=r"students\.a\.specialize: expected students\.a\.examples"):
        examples_for(chosen, "a")


def test_examples_without_fine_tuning_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"students\.a\.examples: without students\.a\.specialize = true"):
        settings(f"students.a.examples={tmp_path / 'e.jsonl'}")
