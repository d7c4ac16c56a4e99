"""SciKnowEval as SDPO ships it (`<domain>/{train,test}.json`, JSON lines), read and made a problem set.

The shipped split is kept, without leaks; validation problems are taken from training rows. What always holds: the same
files, seed and domains give the same set in every process; a domain's validation problems do not depend on which others
it stands beside, unless they share a question; no leak key is in two partitions.

A row's prompt is its stem, a blank line, its options and a fixed last line, and reaches the student byte for byte.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from shared.errors import ProblemSetError
from shared.problems.formats import format_named
from shared.problems.jsonl import read_rows
from shared.problems.leaks import leak_key, refuse_leaks, template_key
from shared.problems.problem import DroppedRow, Problem, ProblemSet, Provenance

FILES = ("train.json", "test.json")
DESCRIPTION_SUFFIX = " The solution will be evaluated in a mcq environment."
PROMPT_SUFFIX = "\nPlease reason step by step."

_LETTERS = "ABCD"


class RawRow(BaseModel):
    """One line of a file. `idx` is unique within a domain only; `elo`, `tests` and `embedding` are placeholders."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    idx: int = Field(ge=0)
    kind: Literal["mcq"]
    dataset: Literal["sciknoweval"]
    answer: Literal["A", "B", "C", "D"]
    elo: int
    prompt: str = Field(min_length=1)
    description: str = Field(min_length=1)
    tests: str
    embedding: list[float]
    system: str = Field(min_length=1)


@dataclass(frozen=True)
class SourceRow:
    """A row of `domain`; `options` by position, so that option 0 is A."""

    domain: str
    raw: RawRow
    stem: str
    options: tuple[str, ...]

    @property
    def id(self) -> str:
        return f"{self.domain}-{self.raw.idx}"

    @cached_property
    def stem_key(self) -> str:
        """What rows share that were made from one template, or differ in signs at most."""
        return template_key(self.stem)

    @cached_property
    def key(self) -> str:
        """The leak key: what rows share that ask the same, in whatever order their options stand."""
        return "\n".join([leak_key(self.stem), *sorted(map(leak_key, self.options))])

    def problem(self) -> Problem:
        return Problem(
            id=self.id,
            domain=self.domain,
            kind="",
            question=self.raw.prompt,
            answer=self.raw.answer,
            system=self.raw.system,
        )


def read_domain(directory: Path, domain: str) -> dict[str, list[SourceRow]]:
    """The rows of `<directory>/<domain>/train.json` and `test.json`, by "train" and "test", in file order.

    Raises ProblemSetError naming file and line.
    """
    places: dict[int, str] = {}
    rows: dict[str, list[SourceRow]] = {}
    for name in FILES:
        path = directory / domain / name
        found = rows[path.stem] = []
        for place, raw in read_rows(path, RawRow):
            if raw.idx in places:
                raise ProblemSetError(f"{place}: expected a new idx, got {raw.idx} as in {places[raw.idx]}")
            places[raw.idx] = place
            found.append(_row(domain, raw, place))
        if not found:
            raise ProblemSetError(f"{path}: expected rows, the file has none")
    return rows


def _row(domain: str, raw: RawRow, place: str) -> SourceRow:
    stem = raw.description.removesuffix(DESCRIPTION_SUFFIX)
    if stem == raw.description:
        raise ProblemSetError(f"{place}: description: expected it to end with {DESCRIPTION_SUFFIX.strip()!r}")
    if not raw.prompt.endswith(PROMPT_SUFFIX):
        raise ProblemSetError(f"{place}: prompt: expected the last line {PROMPT_SUFFIX.strip()!r}")
    start = f"{stem}\n\n"
    if not raw.prompt.startswith(start):
        raise ProblemSetError(f"{place}: prompt: expected the description's question and a blank line at its start")
    options = _options(raw.prompt[len(start) : -len(PROMPT_SUFFIX)])
    if len(options) < 2:
        raise ProblemSetError(f"{place}: prompt: expected the options 'A: …', 'B: …' after the question")
    if _LETTERS.index(raw.answer) >= len(options):
        raise ProblemSetError(f"{place}: answer: expected one of its {len(options)} options, got {raw.answer!r}")
    return SourceRow(domain, raw, stem, options)


def _options(block: str) -> tuple[str, ...]:
    """The texts after `A: `, `B: ` … at the start of a line, each letter in its turn."""
    options: list[str] = []
    rest = block
    for letter in _LETTERS:
        parts = re.split(rf"^{letter}: ", rest, maxsplit=1, flags=re.MULTILINE)
        if len(parts) == 1:
            break
        before, rest = parts
        if letter != _LETTERS[0]:
            options.append(before.strip())
        elif before.strip():
            return ()
    else:
        return (*options, rest.strip())
    return (*options, rest.strip()) if options else ()


FORMAT = "mcq"


def load_sciknoweval(
    directory: Path, domains: tuple[str, ...], *, seed: int, validation_per_domain: int, source: str
) -> ProblemSet:
    """The problems of these domains. source: what the manifest names as their origin.

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
    # A dict keeps the last of equal keys, so it is filled from the end: the first in order stays.
    drawn = list({row.key: row for row in reversed(candidates)}.values())[::-1][:count]
    if len(drawn) < count or len(candidates) == count:
        raise ProblemSetError(
            f"problems.validation_per_domain: expected fewer than the {len(candidates)} training rows of {domain} "
            f"that are left without leaks, got {count}"
        )
    return drawn


def _rank(seed: int, row: SourceRow) -> str:
    # Of the row alone, unlike a shuffle: it does not change with the rows around it.
    return hashlib.sha256(f"{seed}|{row.domain}|{row.raw.idx}".encode()).hexdigest()


def _shared_stems(test: Sequence[SourceRow], others: Sequence[SourceRow]) -> tuple[str, ...]:
    known = {(row.domain, row.stem_key) for row in others}
    return tuple(row.id for row in test if (row.domain, row.stem_key) in known)


def _problems(rows: Iterable[SourceRow]) -> tuple[Problem, ...]:
    return tuple(row.problem() for row in rows)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
