"""The examples that a student is fine-tuned on before a run: from a file of the user's, or those that the generated
problems bring.

A line of the file is {"messages": [{"role", "content"}, …], "completion"}: a prompt as the student will get it,
ending with a user's turn, and the answer to learn, for instance a worked chain of thought with its answer block.
What always holds: no example asks a question of the test partition, nor one that the gate asks.
"""

from pathlib import Path

import structlog
from pydantic import BaseModel, ConfigDict, Field

from shared.config.settings import RunSettings
from shared.contracts.messages import ChatMessage
from shared.errors import ConfigError, ProblemSetError
from shared.files.text import expanded
from shared.problems.jsonl import read_rows
from shared.problems.leaks import question_key
from shared.problems.loading import GENERATED, generated_domains, problems_of
from shared.problems.problem import ProblemSet
from shared.problems.specialising import Example, Knowledge, recipe

log = structlog.get_logger()


class ExampleRow(BaseModel):
    """One line of an examples file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    messages: tuple[ChatMessage, ...] = Field(min_length=1)
    completion: str = Field(min_length=1)


def examples_for(settings: RunSettings, student: str) -> tuple[Example, ...]:
    """What `student` is to be fine-tuned on.

    Raises ConfigError where nothing says on what, ProblemSetError naming file, line and fault of a bad row.
    """
    section = settings.students[student]
    if section.examples is not None:
        return read_examples(expanded(section.examples), problems_of(settings))
    if settings.problems.source != GENERATED:
        raise ConfigError(
            f"students.{student}.specialize: expected students.{student}.examples, a JSONL file to fine-tune on "
            f"(docs/data.md), as problems.source = {settings.problems.source!r} brings no examples; or set "
            "specialize.source = 'self', for right answers of its own; or use `specialize = false` and name a model "
            "that is a specialist already"
        )
    others = [domain for domain in generated_domains(settings.domains) if domain != section.domain]
    knowledge = Knowledge(
        section.domain, {domain: section.unknown_in(domain) for domain in others}, settings.problems.kinds
    )
    return tuple(recipe(knowledge, seed=settings.run.seed))


def read_examples(path: Path, problems: ProblemSet) -> tuple[Example, ...]:
    """The file's examples in order, without those of validation questions, which are drawn from what a user may well
    have written examples for: the gate would think too well of that student, and too little of its peers.

    Raises ProblemSetError for a bad row, a test question, or a file without rows that are left.
    """
    tests = {question_key(problem.question): problem.id for problem in problems.test}
    asked_by_gate = {question_key(problem.question) for problem in problems.validation}
    examples, left_out = [], 0
    for place, row in read_rows(path, ExampleRow):
        if row.messages[-1].role != "user":
            raise ProblemSetError(
                f"{place}: messages: expected the last one to be the user's, got role {row.messages[-1].role!r}; "
                "the answer belongs into completion"
            )
        if not row.completion.strip():
            raise ProblemSetError(f"{place}: completion: expected an answer to learn, got only white space")
        question = question_key(row.messages[-1].content)
        if question in tests:
            raise ProblemSetError(
                f"{place}: expected no question of the test partition, got that of {tests[question]!r}"
            )
        if question in asked_by_gate:
            left_out += 1
        else:
            examples.append(Example(row.messages, row.completion))
    if not examples:
        none_left = f", all {left_out} ask questions of the validation partition" if left_out else ", the file has none"
        raise ProblemSetError(f"{path}: expected examples{none_left}")
    if left_out:
        log.warning(
            "examples of validation questions are left out", file=str(path), left_out=left_out, kept=len(examples)
        )
    return tuple(examples)
