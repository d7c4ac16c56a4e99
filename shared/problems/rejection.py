"""Which of its own answers a student is fine-tuned on: rejection sampling (arXiv 2308.01825). Pure.

Several answers are drawn to each training problem of the student's domain. Kept are the first ones, in the order in
which they were drawn, that are right, ended by themselves and are no two the same. The first and not the shortest or
likeliest: a choice by length would teach length. A right answer vouches for its letter or number, not for the reasoning
before it: one of four options is hit by one guess in four.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from shared.config.settings import RunSettings
from shared.config.specializing import SamplingSection
from shared.contracts.messages import Contract
from shared.errors import ConfigError
from shared.files.text import is_plain
from shared.problems.examples import ExampleRow
from shared.problems.problem import Problem, ProblemFormat, ProblemSet

SAMPLES = "samples"
"""Directory of the cache that keeps all that was drawn."""


class DrawnAnswer(Contract):
    """ended: the model ended it; else it was cut at its limit of tokens."""

    text: str
    ended: bool


class DrawnAnswers(Contract):
    """All answers that were drawn to one problem, in order."""

    problem_id: str
    answers: tuple[DrawnAnswer, ...]


@dataclass(frozen=True)
class Rejection:
    """What was kept, and the counts of all that was drawn. solved: problems of which an answer was kept."""

    examples: tuple[ExampleRow, ...]
    problems: int
    solved: int
    answers: int
    right: int
    cut: int

    def __str__(self) -> str:
        cut = f", {self.cut} were cut" if self.cut else ""
        return (
            f"{self.solved} of {self.problems} problems were solved; of {self.answers} answers {self.right} were right"
            f"{cut}"
        )


def own_problems(settings: RunSettings, student: str, problems: ProblemSet) -> tuple[Problem, ...]:
    """The training problems of the student's domain.

    Raises ConfigError where they are too few, were all of them solved.
    """
    section, domain = settings.specialize.sampling, settings.students[student].domain
    found = tuple(problem for problem in problems.train if problem.domain == domain)
    most = section.keep * len(found)
    if most < section.min_examples:
        raise ConfigError(
            f"specialize.sampling.min_examples: expected at most {most} for student {student}, "
            f"specialize.sampling.keep = {section.keep} of each of the {len(found)} training problems of {domain}, "
            f"got {section.min_examples}"
        )
    return found


def require_server_of_ours(settings: RunSettings, student: str) -> None:
    """Raises ConfigError where the server of the settings is to serve what is not made yet."""
    name = f"students.{student}.vllm.url"
    if settings.students[student].finds_server:
        raise ConfigError(
            f"{name}: expected none while the student's own answers are drawn: that server is to serve the specialist, "
            "which is made of them. Make it ahead with a server that is started for it, in the same cache: "
            f"`opcod specialize --student {student} --set {name}=none …` with this run's other settings"
        )


def keep_right(problems: Sequence[Problem], drawn: Sequence[DrawnAnswers], form: ProblemFormat, keep: int) -> Rejection:
    """The examples that `drawn`, in the order of `problems`, make: at most `keep` of a problem."""
    right = [_right(problem, each, form) for problem, each in zip(problems, drawn, strict=True)]
    examples = [
        ExampleRow(messages=tuple(form.messages(problem)), completion=text)
        for problem, texts in zip(problems, right, strict=True)
        for text in list(dict.fromkeys(texts))[:keep]
    ]
    answers = [answer for each in drawn for answer in each.answers]
    return Rejection(
        examples=tuple(examples),
        problems=len(problems),
        solved=sum(map(bool, right)),
        answers=len(answers),
        right=sum(map(len, right)),
        cut=sum(not answer.ended for answer in answers),
    )


def require_enough(found: Rejection, section: SamplingSection, student: str) -> None:
    """Raises ConfigError with the counts where fewer examples were kept than `min_examples`."""
    if len(found.examples) >= section.min_examples:
        return
    longer = f"raise specialize.sampling.max_tokens = {section.max_tokens}; " if found.cut else ""
    raise ConfigError(
        f"students.{student}.specialize: expected {section.min_examples} right answers of its own to fine-tune on, or "
        f"more (specialize.sampling.min_examples), kept {len(found.examples)}: {found}. {longer}"
        f"raise specialize.sampling.samples = {section.samples}, choose a model that solves more as "
        f"students.{student}.model, or name a file as students.{student}.examples"
    )


def _right(problem: Problem, drawn: DrawnAnswers, form: ProblemFormat) -> list[str]:
    assert drawn.problem_id == problem.id
    return list(_texts(drawn, problem, form))


def _texts(drawn: DrawnAnswers, problem: Problem, form: ProblemFormat) -> Iterator[str]:
    for answer in drawn.answers:
        # A NUL is no error of the answer, but no file of examples takes one.
        if answer.ended and form.grade(answer.text, problem.answer) == 1.0 and is_plain(answer.text):
            yield answer.text
