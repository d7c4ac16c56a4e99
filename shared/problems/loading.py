"""Loading a problem set: generated, or from a directory of JSON lines.

The directory holds `train.jsonl`, `validation.jsonl`, `test.jsonl` and optionally `specialise.jsonl`; a line is an
object {"id", "domain", "question", "answer"} and optionally "kind", "solution", "system", all of them strings.
What always holds for a loaded set: two domains, each with problems in train, validation and test; no id twice;
no question (by leak key) in two partitions; every row one that its format can hold.
"""

import difflib
import json
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.errors import ConfigError, ProblemSetError
from shared.problems.formats import ProblemFormat, format_named, format_names
from shared.problems.generated import PerKind, generate
from shared.problems.problem import PARTITIONS, Problem, ProblemSet, leak_key

GENERATED = "generated"
REQUIRED_PARTITIONS = ("train", "validation", "test")

_MAX_LISTED = 5


class ProblemRow(BaseModel):
    """One line of a problem file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    id: str = Field(min_length=1, max_length=200)
    domain: str = Field(min_length=1)
    question: str = Field(min_length=1)
    answer: str = Field(min_length=1)
    kind: str = ""
    solution: str | None = None
    system: str | None = None


def load_problem_set(
    source: str,
    format: str | None = None,
    seed: int = 0,
    *,
    domains: tuple[str, str] | None = None,
    per_kind: PerKind | None = None,
) -> ProblemSet:
    """The problem set that `source` names: "generated", or a directory.

    format: needed for a directory; "generated" brings its own, "integer". seed and per_kind: for "generated".
    domains: the first and the second student's; for a directory by default in the order they first occur in
    train.jsonl. Raises `ProblemSetError` naming file and line, `ConfigError` for a source or format not known.
    """
    if source == GENERATED:
        loaded = _generated(format, seed, domains, per_kind)
    else:
        loaded = _from_directory(_directory(source), _format(source, format), domains)
    refuse_unusable(loaded)
    return loaded


def refuse_unusable(problem_set: ProblemSet) -> None:
    """Raises `ProblemSetError` if a partition lacks a domain or a question stands in two partitions."""
    for name in REQUIRED_PARTITIONS:
        present = {problem.domain for problem in problem_set.partition(name)}
        for domain in problem_set.domains:
            if domain not in present:
                raise ProblemSetError(
                    f"{problem_set.name}: expected problems of {domain!r} in the partition {name}, got none"
                )
    _refuse_overlap(problem_set)


def _refuse_overlap(problem_set: ProblemSet) -> None:
    first: dict[str, tuple[str, Problem]] = {}
    shared: list[str] = []
    for name in PARTITIONS:
        for problem in problem_set.partition(name):
            where, twin = first.setdefault(leak_key(problem.question), (name, problem))
            if where != name:
                shared.append(f"{twin.id!r} in {where} and {problem.id!r} in {name}")
    if shared:
        listed = "; ".join(shared[:_MAX_LISTED]) + ("; …" if len(shared) > _MAX_LISTED else "")
        raise ProblemSetError(
            f"{problem_set.name}: expected partitions without a question in common, got {len(shared)} that differ "
            f"at most in case or punctuation: {listed}. Remove them from one partition"
        )


def _generated(format: str | None, seed: int, domains: tuple[str, str] | None, per_kind: PerKind | None) -> ProblemSet:
    loaded = generate(seed, per_kind=per_kind)
    if format is not None and format_named(format) is not loaded.format:
        raise ConfigError(f"generated problems have the format {loaded.format.name}, got {format!r}; leave it out")
    if domains is not None and domains != loaded.domains:
        raise ConfigError(f"generated problems have the domains {', '.join(loaded.domains)}, got {domains!r}")
    return loaded


def _directory(source: str) -> Path:
    path = Path(source)
    if path.is_dir():
        return path
    near = difflib.get_close_matches(source, [GENERATED], n=1)
    hint = f"; did you mean {GENERATED!r}?" if near else ""
    raise ConfigError(f"expected {GENERATED!r} or a directory of problems, got {source!r}{hint}")


def _format(source: str, format: str | None) -> ProblemFormat:
    if format is None:
        raise ConfigError(f"{source}: expected a format of {', '.join(format_names())} for it, got none")
    return format_named(format)


def _from_directory(directory: Path, form: ProblemFormat, domains: tuple[str, str] | None) -> ProblemSet:
    ids: dict[str, str] = {}
    train = _read_partition(directory, "train", form, ids)
    return ProblemSet(
        name=directory.resolve().name,
        format=form,
        domains=domains or _two_domains(directory / "train.jsonl", train),
        train=train,
        validation=_read_partition(directory, "validation", form, ids),
        test=_read_partition(directory, "test", form, ids),
        specialise=_read_partition(directory, "specialise", form, ids),
    )


def _two_domains(path: Path, problems: tuple[Problem, ...]) -> tuple[str, str]:
    found = list(dict.fromkeys(problem.domain for problem in problems))
    if len(found) != 2:
        raise ProblemSetError(f"{path}: expected problems of two domains, got {', '.join(found) or 'none'}")
    return found[0], found[1]


def _read_partition(directory: Path, name: str, form: ProblemFormat, ids: dict[str, str]) -> tuple[Problem, ...]:
    """The rows of `<name>.jsonl`; `ids` collects where every id was first seen, over all files."""
    path = directory / f"{name}.jsonl"
    if not path.is_file():
        if name in REQUIRED_PARTITIONS:
            raise ProblemSetError(f"{path}: expected this file, it does not exist")
        return ()
    problems = []
    for number, line in _lines(path):
        place = f"{path}:{number}"
        problem = _problem(line, place, form)
        if problem.id in ids:
            raise ProblemSetError(f"{place}: expected a new id, got {problem.id!r} as in {ids[problem.id]}")
        ids[problem.id] = place
        problems.append(problem)
    return tuple(problems)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, numbered from 1; only a newline ends a line."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ProblemSetError(f"{path}: expected UTF-8 text, got other bytes at {error.start}") from error
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line


def _problem(line: str, place: str, form: ProblemFormat) -> Problem:
    try:
        row = ProblemRow.model_validate(json.loads(line))
    except json.JSONDecodeError as error:
        raise ProblemSetError(f"{place}: expected a JSON object, got {line.strip()[:60]!r} ({error.msg})") from error
    except ValidationError as error:
        raise ProblemSetError(f"{place}: {_first_fault(error)}") from error
    problem = Problem(**row.model_dump())
    refusal = form.refusal(problem)
    if refusal is not None:
        raise ProblemSetError(f"{place}: {refusal}")
    return problem


def _first_fault(error: ValidationError) -> str:
    fault = error.errors()[0]
    field = ".".join(str(part) for part in fault["loc"])
    if not field:
        return f"expected an object with the fields {', '.join(ProblemRow.model_fields)}, got {fault['input']!r}"
    if fault["type"] == "missing":
        return f"expected the field {field!r}, it is missing"
    if fault["type"] == "extra_forbidden":
        return f"expected only the fields {', '.join(ProblemRow.model_fields)}, got {field!r}"
    return f"{field}: expected {_wanted(fault['msg'])}, got {fault['input']!r}"


def _wanted(message: str) -> str:
    return message.removeprefix("Input should be ").removeprefix("String should have ")
