"""SciKnowEval as a problem set: the shipped split, without leaks, and validation problems taken from training rows.

What always holds: the same files, seed and domains give the same set in every process; a domain's validation
problems do not depend on which other domain it is paired with, unless the two share a question; no leak key is
in two partitions.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from shared.errors import ProblemSetError
from shared.problems.formats import format_named
from shared.problems.leaks import refuse_leaks
from shared.problems.problem import Problem, ProblemSet
from shared.problems.provenance import DroppedRow, Provenance
from shared.problems.sciknoweval_rows import FILES, SourceRow, read_domain

FORMAT = "mcq"


def load_sciknoweval(
    directory: Path, domains: tuple[str, str], *, seed: int, validation_per_domain: int, source: str
) -> ProblemSet:
    """The two domains' problems. source: what the manifest names as their origin.

    Training rows whose key is in a test file are left out, and so are those that ask what a validation problem
    asks; both are named in the manifest. Raises ProblemSetError naming file and line, or a domain with too few rows.
    """
    rows = {domain: read_domain(directory, domain) for domain in domains}
    test = [row for domain in domains for row in rows[domain]["test"]]
    train, leaked = _without(test, "test", (row for domain in domains for row in rows[domain]["train"]))
    validation = [row for d in domains for row in _draw(rows[d], train, seed, validation_per_domain)]
    chosen = {row.id for row in validation}
    train, twins = _without(validation, "validation", (row for row in train if row.id not in chosen))
    partitions = {"train": train, "validation": validation, "test": test}
    refuse_leaks(source, ((name, row.id, row.key) for name, part in partitions.items() for row in part))
    return ProblemSet(
        name=f"sciknoweval-{'-'.join(domains)}-{seed}",
        format=format_named(FORMAT),
        domains=domains,
        train=_problems(train),
        validation=_problems(validation),
        test=_problems(test),
        provenance=Provenance(
            source=source,
            files={f"{domain}/{name}": _sha256(directory / domain / name) for domain in domains for name in FILES},
            dropped=tuple(leaked + twins),
            shared_stems=_shared_stems(test, [*train, *validation]),
        ),
    )


def _without(
    kept: Sequence[SourceRow], partition: str, rows: Iterable[SourceRow]
) -> tuple[list[SourceRow], list[DroppedRow]]:
    """The rows that ask nothing that `kept` asks, and those that do."""
    twins: dict[str, str] = {}
    for row in kept:
        twins.setdefault(row.key, row.id)
    left, dropped = [], []
    for row in rows:
        if row.key in twins:
            dropped.append(DroppedRow(id=row.id, partition=partition, same_as=twins[row.key]))
        else:
            left.append(row)
    return left, dropped


def _draw(rows: dict[str, list[SourceRow]], train: Sequence[SourceRow], seed: int, count: int) -> list[SourceRow]:
    """`count` of the domain's rows in `train` by the hash of seed, domain and idx; those with a stem of their own
    in the domain's files come first, and no two ask the same.
    """
    domain = rows["train"][0].domain
    stems = Counter(row.stem_key for part in rows.values() for row in part)
    candidates = [row for row in train if row.domain == domain]
    candidates.sort(key=lambda row: (stems[row.stem_key] > 1, _rank(seed, row)))
    drawn = list({row.key: row for row in reversed(candidates)}.values())[::-1][:count]
    if len(drawn) < count or len(candidates) == count:
        raise ProblemSetError(
            f"problems.validation_per_domain: expected fewer than the {len(candidates)} training rows of {domain} "
            f"that are left without leaks, got {count}"
        )
    return drawn


def _rank(seed: int, row: SourceRow) -> str:
    return hashlib.sha256(f"{seed}|{row.domain}|{row.raw.idx}".encode()).hexdigest()


def _shared_stems(test: Sequence[SourceRow], others: Sequence[SourceRow]) -> tuple[str, ...]:
    known = {(row.domain, row.stem_key) for row in others}
    return tuple(row.id for row in test if (row.domain, row.stem_key) in known)


def _problems(rows: Iterable[SourceRow]) -> tuple[Problem, ...]:
    return tuple(row.problem() for row in rows)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
