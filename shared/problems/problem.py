"""A problem, a problem set, and what a problem format must be able to do.

What always holds: ids are unique over the whole set, and every problem belongs to one of its domains.
These are what the students are strong in, in the students' order, then those that no student is.

A format is everything that depends on how a problem is put into words: the prompts, how the answer is read and
graded, what a concept may be anchored in, what in a feedback would give the answer away. Formats hold no state, so
that one instance serves every thread; `formats.py` knows them by name.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Protocol, TypeVar

from shared.contracts.messages import ChatMessage, Contract
from shared.errors import ProblemSetError, shown
from shared.method.anchoring import FB_NONE, Review


class DroppedRow(Contract):
    """A training row that is not used, since it would give away a problem of another partition."""

    id: str
    partition: str
    same_as: str


class Provenance(Contract):
    """files: sha256 by path below the source. shared_stems: test problems that share their stem, though not their
    options, with a training problem.
    """

    source: str
    files: dict[str, str]
    dropped: tuple[DroppedRow, ...] = ()
    shared_stems: tuple[str, ...] = ()


PARTITIONS = ("train", "validation", "test", "specialise")

Each = TypeVar("Each")


@dataclass(frozen=True)
class Problem:
    """One question with its answer.

    `kind` is a finer topic inside the domain; `solution` a worked line in the words a student would use;
    `system` the system message that belongs to the question, if the format has one.
    """

    id: str
    domain: str
    kind: str
    question: str
    answer: str
    solution: str | None = None
    system: str | None = None


@dataclass(frozen=True)
class ProblemSet:
    """All problems of a run, by partition. `specialise` is kept apart for making the initial specialists.

    provenance: where they came from, if from files of others; no part of what the set is (`content_hash`), nor is
    contradicted: ids of two problems that ask the same and have different answers.
    """

    name: str
    format: "ProblemFormat"
    domains: tuple[str, ...]
    train: tuple[Problem, ...]
    validation: tuple[Problem, ...]
    test: tuple[Problem, ...]
    specialise: tuple[Problem, ...] = ()
    provenance: Provenance | None = None
    contradicted: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not self.domains or len(set(self.domains)) < len(self.domains):
            raise ProblemSetError(f"{self.name}: expected different domains, got {', '.join(self.domains) or 'none'}")
        seen: set[str] = set()
        for problem in self.all_problems():
            if problem.domain not in self.domains:
                raise ProblemSetError(
                    f"{self.name}: problem {problem.id!r} is of domain {shown(problem.domain)}, "
                    f"expected one of {', '.join(self.domains)}"
                )
            if problem.id in seen:
                raise ProblemSetError(f"{self.name}: the id {problem.id!r} occurs twice, give each its own")
            seen.add(problem.id)

    def partition(self, name: str) -> tuple[Problem, ...]:
        """The problems of one of `PARTITIONS`."""
        if name not in PARTITIONS:
            raise ProblemSetError(f"expected a partition of {', '.join(PARTITIONS)}, got {name!r}")
        problems: tuple[Problem, ...] = getattr(self, name)
        return problems

    def all_problems(self) -> Iterable[Problem]:
        """Every problem once, in the order of `PARTITIONS`."""
        for name in PARTITIONS:
            yield from self.partition(name)

    def by_id(self, problem_id: str) -> Problem:
        """The problem of that id; `ProblemSetError` if the set has none."""
        try:
            return self._index[problem_id]
        except KeyError:
            raise ProblemSetError(
                f"the problem set {self.name!r} ({self.content_hash[:12]}) has no problem {problem_id!r}; "
                "is this run's data still the one it was started with?"
            ) from None

    @cached_property
    def content_hash(self) -> str:
        """sha256 (hex) over format, domains and all rows in order: the same in every process."""
        # Neither name nor provenance: the same problems from another place are the same set.
        header = json.dumps([self.format.name, *self.domains])
        parts = [header, *(f"{name}:{rows_hash(self.partition(name))}" for name in PARTITIONS)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    @cached_property
    def _index(self) -> dict[str, Problem]:
        # Kept by cached_property in __dict__, which a frozen dataclass does not guard.
        return {problem.id: problem for problem in self.all_problems()}


def spread(rows: Sequence[Each], limit: int | None) -> Sequence[Each]:
    """`limit` of the rows, in order and evenly over all of them; all, without a limit or below it."""
    if limit is None or limit >= len(rows):
        return rows
    # Not every (len // limit)-th: where the limit does not divide, the last rows would never be drawn.
    return [rows[index * len(rows) // limit] for index in range(limit)]


def spread_over_kinds(kinds: Sequence[str], limit: int | None) -> list[int]:
    """Places of `limit` rows, in order: of each kind its share, rounded, evenly over its rows; all, without a limit.

    kinds: of each row. In a generated set they alternate, so that every n-th row may be of some of them alone.
    """
    by_kind = sorted(range(len(kinds)), key=kinds.__getitem__)
    return sorted(spread(by_kind, limit))


def rows_hash(problems: Iterable[Problem]) -> str:
    """sha256 (hex) over the problems as JSON lines with sorted keys, in the order given."""
    digest = hashlib.sha256()
    for problem in problems:
        digest.update(json.dumps(asdict(problem), sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


FORMAL_REASONS = ("concept_tag", "blank", "invisible", "thinking")
"""Removals that take nothing away from a reader: a model that thinks has some in every feedback."""


@dataclass(frozen=True)
class Judgement:
    """delivered: the text that the tutee may see, None if it is dropped. removed: what was taken out of the raw text,
    delivered or not, where a reader would miss it."""

    verdict: str
    delivered: str | None
    removed: tuple[str, ...]


def removed_by(review: Review) -> tuple[str, ...]:
    """What the rules of every format took out."""
    return tuple(removal.text for removal in review.removals if removal.reason not in FORMAL_REASONS)


def judged_without(
    split: Callable[[str], tuple[str, tuple[str, ...]]], review: Review, verdict: str, delivered: str | None
) -> Judgement:
    """Of what the rules of every format let through, what a format's own `split` leaves: (left, what it took out)."""
    removed = removed_by(review)
    if delivered is None:
        return Judgement(verdict, None, removed)
    left, revealed = split(delivered)
    kept = left.strip()
    if not any(map(str.isalnum, kept)):
        return Judgement(FB_NONE, None, removed + revealed)
    return Judgement(verdict, kept, removed + revealed)


class ProblemFormat(Protocol):
    """How problems of one style are asked, graded and given feedback on."""

    @property
    def name(self) -> str:
        """The name it is registered under."""
        ...

    @property
    def template_hash(self) -> str:
        """sha256 (hex) over the words of its prompts, so that a batch says which it was made with."""
        ...

    def refusal(self, problem: Problem) -> str | None:
        """Why this format cannot hold the problem (what was expected and what came), or None."""
        ...

    def messages(self, problem: Problem) -> list[ChatMessage]:
        """The prompt a student solves the problem from."""
        ...

    def teacher_messages(self, problem: Problem, *, solution: str | None, feedback: str | None) -> list[ChatMessage]:
        """The self-teacher's prompt: the problem with a solution s, a feedback f, both, or neither.

        With neither it equals `messages(problem)` (and the caller masks the sample out of the loss).
        """
        ...

    def feedback_messages(
        self, problem: Problem, response: str, *, peer_domain: str, agent_domain: str
    ) -> list[ChatMessage]:
        """The tutor's prompt for a feedback on `response` (paper C.1).

        `peer_domain` is the domain the tutor is strong in, `agent_domain` the tutee's.
        """
        ...

    def extract_answer(self, text: str) -> str:
        """The answer that a response commits to, "" if it gives none."""
        ...

    def grade(self, text: str, answer: str) -> float:
        """1.0 if the response's answer is `answer`, else 0.0."""
        ...

    def grade_lenient(self, text: str, answer: str) -> float:
        """1.0 if a tolerant reader finds `answer`, and always where `grade` gives 1.0. Shown, never the score."""
        ...

    def format_ok(self, text: str) -> bool:
        """Whether the response has the form that was asked for, right or wrong; True is good."""
        ...

    def anchor_text(self, problem: Problem) -> str:
        """The text that a feedback's concept must share a word with."""
        ...

    def judge_feedback(self, raw: str | None, problem: Problem) -> Judgement:
        """All that is decided about a raw feedback, from one review of it."""
        ...
