"""The manifest of a problem set: what a run writes down to say which problems it used."""

from collections import Counter
from collections.abc import Iterable

from shared.contracts.messages import Contract
from shared.problems.problem import PARTITIONS, Problem, ProblemSet, Provenance, rows_hash


class DomainManifest(Contract):
    """How many problems of a domain a partition has, by kind, their ids in order, and what a constant answer would
    score.

    kind_of_each: in the order of the ids; empty where a run was begun by a release that did not write it.
    """

    count: int
    ids: tuple[str, ...]
    kinds: dict[str, int]
    kind_of_each: tuple[str, ...] = ()
    majority_answer: str
    majority_share: float


class PartitionManifest(Contract):
    """One partition: its problems' number, hash and domains."""

    count: int
    sha256: str
    domains: dict[str, DomainManifest]


class ProblemSetManifest(Contract):
    """A problem set by hashes, counts and ids; `content_hash` identifies it as a whole."""

    name: str
    format: str
    domains: tuple[str, ...]
    content_hash: str
    partitions: dict[str, PartitionManifest]
    provenance: Provenance | None = None


def manifest(problem_set: ProblemSet) -> ProblemSetManifest:
    """The manifest; equal problem sets have equal manifests in every process."""
    return ProblemSetManifest(
        name=problem_set.name,
        format=problem_set.format.name,
        domains=problem_set.domains,
        content_hash=problem_set.content_hash,
        partitions={name: _partition(problem_set, name) for name in PARTITIONS},
        provenance=problem_set.provenance,
    )


def _partition(problem_set: ProblemSet, name: str) -> PartitionManifest:
    problems = problem_set.partition(name)
    domains = {
        domain: _domain(problem for problem in problems if problem.domain == domain)
        for domain in problem_set.domains
        if any(problem.domain == domain for problem in problems)
    }
    return PartitionManifest(count=len(problems), sha256=rows_hash(problems), domains=domains)


def _domain(problems: Iterable[Problem]) -> DomainManifest:
    rows = list(problems)
    # Of equally frequent answers the first in the order of the problems: the same in every process.
    answer, times = Counter(row.answer for row in rows).most_common(1)[0]
    kinds = Counter(row.kind for row in rows)
    return DomainManifest(
        count=len(rows),
        ids=tuple(row.id for row in rows),
        kinds=dict(sorted(kinds.items())),
        kind_of_each=tuple(row.kind for row in rows),
        majority_answer=answer,
        majority_share=times / len(rows),
    )
