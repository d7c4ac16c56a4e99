"""The examples that a student is fine-tuned on before a run: the user's, or those that the generated problems bring.

A line of a user's file is {"messages": [{"role", "content"}, …], "completion"}: a prompt as the student will get it,
ending with a user's turn, and the answer to learn, for instance a worked chain of thought with its answer block.

The generated examples (`recipe`) make two specialists out of one base model: solving, tutoring, and listening to a
tutor. A student is strong in its own domain and has only glimpsed the other; it can write feedback in the tutor's
shape, and solve from a teacher's prompt of either domain without trusting a wrong hint: who never followed a hint in
the other domain cannot be told anything there.

What always holds: no example asks a question of the test partition; the same seed gives the same generated examples
in every process, and they use questions of the `specialise` partition only.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from random import Random
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from shared.config.settings import RunSettings
from shared.contracts.messages import ChatMessage
from shared.errors import ConfigError, ProblemSetError
from shared.files.text import expanded
from shared.problems.formats import format_named
from shared.problems.generated import DOMAINS, KINDS, DrawnProblem, PerKind, draw_partitions
from shared.problems.jsonl import read_rows
from shared.problems.kinds import Kind
from shared.problems.leaks import leak_key
from shared.problems.loading import GENERATED, problems_of
from shared.problems.mistakes import PeerFault, PeerLine, peer_line, wrong_formula
from shared.problems.problem import ProblemFormat, ProblemSet

StudentName = Literal["a", "b"]

WRONG_PEERS = 0.75
FAULT_SHARES = {PeerFault.FORMULA: 5 / 7, PeerFault.ARITHMETIC: 1 / 7, PeerFault.NUMBERS: 1 / 7}
WRONG_HINTS = 0.6

_VERDICTS = {
    PeerFault.NONE: "Correct.",
    PeerFault.FORMULA: "Wrong formula.",
    PeerFault.ARITHMETIC: "Wrong arithmetic.",
    PeerFault.NUMBERS: "Wrong numbers.",
}


@dataclass(frozen=True)
class Example:
    """A prompt and the completion to learn; the completion begins with a space."""

    messages: tuple[ChatMessage, ...]
    completion: str


@dataclass(frozen=True)
class SpecialistCounts:
    """How many examples of each type a student gets, per kind of the domain named."""

    solve_own: int
    solve_other: int
    feedback_own: int
    feedback_other: int
    teacher_own: int
    teacher_other: int


FIRST_STUDENT = SpecialistCounts(
    solve_own=6, solve_other=1, feedback_own=22, feedback_other=0, teacher_own=6, teacher_other=6
)
SECOND_STUDENT = SpecialistCounts(
    solve_own=7, solve_other=6, feedback_own=22, feedback_other=6, teacher_own=6, teacher_other=6
)


def recipe(
    student: StudentName,
    *,
    seed: int,
    counts: SpecialistCounts | None = None,
    per_kind: PerKind | None = None,
) -> list[Example]:
    """All examples of a student, shuffled: 328 for `a` (physics), 424 for `b` (chemistry) by default.

    `seed` and `per_kind` are those of the problem set, whose `specialise` partition the questions come from.
    """
    chosen = counts or (FIRST_STUDENT if student == "a" else SECOND_STUDENT)
    own, other = DOMAINS if student == "a" else tuple(reversed(DOMAINS))
    drawn = draw_partitions(seed, per_kind=per_kind)["specialise"]
    mine = [item for item in drawn if item.problem.domain == own]
    theirs = [item for item in drawn if item.problem.domain == other]
    # One stream for all that follows: in another order the same seed would give other examples, and so other
    # specialists.
    rng = Random(f"{seed}/specialise/{student}")
    examples = [
        *solve_examples(_per_kind(mine, chosen.solve_own, rng)),
        *solve_examples(_per_kind(theirs, chosen.solve_other, rng)),
        *feedback_examples(_per_kind(mine, chosen.feedback_own, rng), rng),
        *feedback_examples(_per_kind(theirs, chosen.feedback_other, rng), rng),
        *teacher_examples(_per_kind(mine, chosen.teacher_own, rng), rng),
        *teacher_examples(_per_kind(theirs, chosen.teacher_other, rng), rng),
    ]
    rng.shuffle(examples)
    return examples


def solve_examples(items: Sequence[DrawnProblem]) -> list[Example]:
    """The question, answered with its solution."""
    form = _format()
    return [Example(tuple(form.messages(item.problem)), f" {item.drawn.solution}") for item in items]


def feedback_examples(items: Sequence[DrawnProblem], rng: Random) -> list[Example]:
    """A peer's line, answered with concept, verdict and the right formula and numbers.

    `WRONG_PEERS` of the peers are wrong, in the shares of `FAULT_SHARES`.
    """
    faults = _fault_sequence(len(items), rng)
    return [_feedback_example(item, fault, rng) for item, fault in zip(items, faults, strict=True)]


def teacher_examples(items: Sequence[DrawnProblem], rng: Random) -> list[Example]:
    """The self-teacher's prompts, answered with the solution.

    A third each shows solution and hint, the solution alone, the hint alone. A lone hint is right; next to a
    solution `WRONG_HINTS` of the hints name a wrong formula and are to be ignored.
    """
    # Equal shares to within one, then in random order; drawing each by itself would leave few of some kind.
    shown = list(islice(cycle(("both", "solution", "hint")), len(items)))
    rng.shuffle(shown)
    wrong = _marks(shown.count("both"), WRONG_HINTS, rng)
    return [_teacher_example(item, what, wrong, rng) for item, what in zip(items, shown, strict=True)]


def feedback_text(item: DrawnProblem, fault: PeerFault, formula: str, numbers: str) -> str:
    """A raw feedback in the tutor's shape: concept, verdict, then what to use; it begins with a space."""
    return f" <concept>{item.drawn.concept}</concept> {_VERDICTS[fault]} Use {formula} with {numbers}."


def _feedback_example(item: DrawnProblem, fault: PeerFault, rng: Random) -> Example:
    peer: PeerLine = peer_line(item.drawn, fault, _other_kinds(item), rng)
    peer_domain = item.problem.domain
    agent_domain = next(domain for domain in DOMAINS if domain != peer_domain)
    messages = _format().feedback_messages(item.problem, peer.text, peer_domain=peer_domain, agent_domain=agent_domain)
    completion = feedback_text(item, fault, item.drawn.kind.formula, item.drawn.numbers)
    return Example(tuple(messages), completion)


def _teacher_example(item: DrawnProblem, shown: str, wrong: Iterator[bool], rng: Random) -> Example:
    solution = None if shown == "hint" else item.drawn.solution
    feedback = None
    if shown != "solution":
        feedback = _hint(item, wrong=shown == "both" and next(wrong), rng=rng)
    messages = _format().teacher_messages(item.problem, solution=solution, feedback=feedback)
    return Example(tuple(messages), f" {item.drawn.solution}")


def _hint(item: DrawnProblem, *, wrong: bool, rng: Random) -> str | None:
    """A feedback as the tutee gets to see it: judged and cleaned by the format."""
    formula, numbers = item.drawn.kind.formula, item.drawn.numbers
    fault = rng.choice((PeerFault.FORMULA, PeerFault.NONE))
    if wrong:
        formula, numbers = wrong_formula(item.drawn, _other_kinds(item), rng)
    raw = feedback_text(item, fault, formula, numbers)
    return _format().judge_feedback(raw, item.problem).delivered


def _fault_sequence(count: int, rng: Random) -> list[PeerFault]:
    """Faults in the exact shares (to within rounding), in random order."""
    wrong = round(count * WRONG_PEERS)
    faults = [
        fault for fault in (PeerFault.ARITHMETIC, PeerFault.NUMBERS) for _ in range(round(wrong * FAULT_SHARES[fault]))
    ]
    # What rounding leaves over, so that the shares add up.
    faults += [PeerFault.FORMULA] * (wrong - len(faults))
    faults += [PeerFault.NONE] * (count - wrong)
    rng.shuffle(faults)
    return faults


def _marks(count: int, share: float, rng: Random) -> Iterator[bool]:
    marks = [number < round(count * share) for number in range(count)]
    rng.shuffle(marks)
    return iter(marks)


def _per_kind(items: Sequence[DrawnProblem], count: int, rng: Random) -> list[DrawnProblem]:
    """`count` problems of each kind, drawn without repeats until a kind has no more."""
    chosen: list[DrawnProblem] = []
    for name in dict.fromkeys(item.problem.kind for item in items):
        pool = [item for item in items if item.problem.kind == name]
        rng.shuffle(pool)
        chosen += islice(cycle(pool), count)
    return chosen


def _other_kinds(item: DrawnProblem) -> list[Kind]:
    return [kind for kinds in KINDS.values() for kind in kinds if kind is not item.drawn.kind]


def _format() -> ProblemFormat:
    return format_named("integer")


class ExampleRow(BaseModel):
    """One line of an examples file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    messages: tuple[ChatMessage, ...] = Field(min_length=1)
    completion: str = Field(min_length=1)


def examples_for(settings: RunSettings, student: StudentName) -> tuple[Example, ...]:
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
    domain = DOMAINS["ab".index(student)]
    if section.domain != domain:
        raise ConfigError(
            f"students.{student}.domain: expected {domain!r} to fine-tune on the generated problems, "
            f"got {section.domain!r}"
        )
    return tuple(recipe(student, seed=settings.run.seed))


def read_examples(path: Path, problems: ProblemSet) -> tuple[Example, ...]:
    """The file's examples in order. Raises ProblemSetError for a bad row, a test question, or a file without rows."""
    tests = {leak_key(problem.question): problem.id for problem in problems.test}
    examples = []
    for place, row in read_rows(path, ExampleRow):
        if row.messages[-1].role != "user":
            raise ProblemSetError(
                f"{place}: messages: expected the last one to be the user's, got role {row.messages[-1].role!r}; "
                "the answer belongs into completion"
            )
        if not row.completion.strip():
            raise ProblemSetError(f"{place}: completion: expected an answer to learn, got only white space")
        asked = tests.get(leak_key(row.messages[-1].content))
        if asked is not None:
            raise ProblemSetError(f"{place}: expected no question of the test partition, got that of {asked!r}")
        examples.append(Example(row.messages, row.completion))
    if not examples:
        raise ProblemSetError(f"{path}: expected examples, the file has none")
    return tuple(examples)
