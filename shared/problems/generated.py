"""The generated domains: short problems of physics, chemistry and biology with an integer answer.

What always holds: the same seed and counts give the same problems in every process; no two problems of the set
share a leak key; the test partition of a seed does not depend on the counts of the others (it is drawn first,
then validation, train and specialise).
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from random import Random
from types import MappingProxyType

from shared.errors import ProblemSetError
from shared.problems.biology import BIOLOGY
from shared.problems.chemistry import CHEMISTRY
from shared.problems.formats import format_named
from shared.problems.kinds import Drawn, Kind, draw
from shared.problems.leaks import leak_key
from shared.problems.physics import PHYSICS
from shared.problems.problem import Problem, ProblemSet

KINDS: dict[str, tuple[Kind, ...]] = {"physics": PHYSICS, "chemistry": CHEMISTRY, "biology": BIOLOGY}
Domains = tuple[str, ...]
DOMAINS: Domains = ("physics", "chemistry")

_TRIES_PER_PROBLEM = 200


@dataclass(frozen=True)
class PerKind:
    """How many problems of each kind go to each partition, in the order they are drawn."""

    test: int = 16
    validation: int = 5
    train: int = 50
    specialise: int = 30


@dataclass(frozen=True)
class DrawnProblem:
    """A problem together with the drawing it was made from."""

    problem: Problem
    drawn: Drawn


Drawings = Mapping[str, tuple[DrawnProblem, ...]]
"""By partition."""


def kinds_of(domain: str, count: int | None = None) -> tuple[Kind, ...]:
    """The kinds of a domain: all, or the first `count`, half of which (rounded down) have a constant that no question
    tells."""
    if count is None:
        return KINDS[domain]
    secret, told = count // 2, count - count // 2
    chosen = (
        *[kind for kind in KINDS[domain] if not kind.guessable][:secret],
        *[kind for kind in KINDS[domain] if kind.guessable][:told],
    )
    return tuple(kind for kind in KINDS[domain] if kind in chosen)


def generate(
    seed: int, domains: Domains = DOMAINS, *, kinds: int | None = None, per_kind: PerKind | None = None
) -> ProblemSet:
    """The generated problem set of that seed and those domains; kinds alternate, so that any prefix is balanced.

    kinds: of each domain, see `kinds_of`; a problem of a kind is the same with any number of others.

    Raises `ProblemSetError` if a kind has too few distinct questions for the counts.
    """
    drawn = draw_partitions(seed, domains, kinds=kinds, per_kind=per_kind)
    rows = {name: tuple(item.problem for item in items) for name, items in drawn.items()}
    return ProblemSet(
        name=f"generated-{seed}",
        format=format_named("integer"),
        domains=domains,
        train=rows["train"],
        validation=rows["validation"],
        test=rows["test"],
        specialise=rows["specialise"],
    )


def draw_partitions(
    seed: int, domains: Domains = DOMAINS, *, kinds: int | None = None, per_kind: PerKind | None = None
) -> Drawings:
    """The drawings behind `generate` with the same arguments, by partition, in the same order."""
    return _drawn(seed, domains, kinds, per_kind or PerKind())


# A quarter of a second each, and a specialist, hints and the set itself are made of the same ones.
@lru_cache(maxsize=4)
def _drawn(seed: int, domains: Domains, kinds: int | None, counts: PerKind) -> Drawings:
    columns = {
        (domain, kind.name): _draw_kind(seed, domain, kind, counts)
        for domain in domains
        for kind in kinds_of(domain, kinds)
    }
    return MappingProxyType(
        {
            name: tuple(column[name][row] for row in range(getattr(counts, name)) for column in columns.values())
            for name in _partition_names()
        }
    )


def _partition_names() -> list[str]:
    return [field.name for field in fields(PerKind)]


def _draw_kind(seed: int, domain: str, kind: Kind, counts: PerKind) -> dict[str, list[DrawnProblem]]:
    # A stream for each kind: one more kind changes the problems of no other. A text as the seed is hashed by Random
    # itself, alike in every process.
    rng = Random(f"{seed}/{domain}/{kind.name}")
    seen: set[str] = set()
    drawn: dict[str, list[DrawnProblem]] = {}
    for name in _partition_names():
        drawn[name] = []
        for number in range(getattr(counts, name)):
            item = _draw_unseen(kind, rng, seen)
            problem_id = f"{kind.name.replace(' ', '-')}-{name}-{number:03d}"
            drawn[name].append(DrawnProblem(item.problem(problem_id, domain), item))
    return drawn


def _draw_unseen(kind: Kind, rng: Random, seen: set[str]) -> Drawn:
    for _ in range(_TRIES_PER_PROBLEM):
        drawn = draw(kind, rng)
        key = leak_key(drawn.question)
        if key not in seen:
            seen.add(key)
            return drawn
    raise ProblemSetError(
        f"the kind {kind.name!r} has too few distinct questions: after {len(seen)} of them "
        f"{_TRIES_PER_PROBLEM} drawings brought nothing new; ask for fewer problems a kind"
    )
