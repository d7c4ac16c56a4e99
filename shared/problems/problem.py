"""A problem and a problem set.

What always holds: ids are unique over the whole set, and every problem belongs to one of its two domains.
`domains[0]` is the domain that the first student is strong in, `domains[1]` the second student's.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from shared.errors import ProblemSetError, shown
from shared.problems.provenance import Provenance

if TYPE_CHECKING:
    from shared.problems.formats import ProblemFormat

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

    provenance: where they came from, if from files of others; no part of what the set is (`content_hash`).
    """

    name: str
    format: "ProblemFormat"
    domains: tuple[str, str]
    train: tuple[Problem, ...]
    validation: tuple[Problem, ...]
    test: tuple[Problem, ...]
    specialise: tuple[Problem, ...] = ()
    provenance: Provenance | None = None

    def __post_init__(self) -> None:
        if self.domains[0] == self.domains[1]:
            raise ProblemSetError(f"{self.name}: expected two different domains, got {self.domains[0]!r} twice")
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
        header = json.dumps([self.format.name, *self.domains])
        parts = [header, *(f"{name}:{rows_hash(self.partition(name))}" for name in PARTITIONS)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    @cached_property
    def _index(self) -> dict[str, Problem]:
        return {problem.id: problem for problem in self.all_problems()}


def spread(rows: Sequence[Each], limit: int | None) -> Sequence[Each]:
    """`limit` of the rows, in order and evenly over all of them; all, without a limit or below it."""
    if limit is None or limit >= len(rows):
        return rows
    # Not every (len // limit)-th: where the limit does not divide, the last rows would never be drawn.
    return [rows[index * len(rows) // limit] for index in range(limit)]


def rows_hash(problems: Iterable[Problem]) -> str:
    """sha256 (hex) over the problems as JSON lines with sorted keys, in the order given."""
    digest = hashlib.sha256()
    for problem in problems:
        digest.update(json.dumps(asdict(problem), sort_keys=True).encode() + b"\n")
    return digest.hexdigest()
