"""SciKnowEval's multiple-choice rows as SDPO ships them, taken apart: `<domain>/{train,test}.json`, JSON lines.

What always holds: a row's prompt is its stem, a blank line, its options and the fixed last line, and reaches the
student byte for byte. The stem comes from `description`, never from a blank line: stems and options hold some, too.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from shared.errors import ProblemSetError
from shared.problems.jsonl import read_rows
from shared.problems.leaks import leak_key, template_key
from shared.problems.problem import Problem

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
