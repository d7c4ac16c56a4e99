"""Loading a problem set: generated, from a directory of JSON lines, or SciKnowEval's rows (`sciknoweval.py`).

The directory holds `train.jsonl`, `validation.jsonl`, `test.jsonl` and optionally `specialise.jsonl`; a line is an
object {"id", "domain", "question", "answer"} and optionally "kind", "solution", "system", all of them strings.
What always holds for a loaded set: its domains all have problems in train, validation and test; no id twice;
no question (by leak key) in two partitions; every row one that its format can hold. Files that are in the hub client's
cache are used without asking the hub, so that every process of a run reads the same ones.
"""

import difflib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from shared.config.combinations import even_share
from shared.config.settings import RunSettings
from shared.contracts.messages import Worded
from shared.errors import ConfigError, ProblemSetError, shown
from shared.files.durable import sha256_file
from shared.files.text import expanded
from shared.hub import DATA_SET, fetch, kept
from shared.problems import sciknoweval
from shared.problems.formats import format_named, format_names
from shared.problems.generated import DOMAINS, KINDS, PerKind, generate
from shared.problems.jsonl import read_rows
from shared.problems.leaks import answer_key, refuse_shared_questions
from shared.problems.problem import PARTITIONS, Problem, ProblemFormat, ProblemSet

_HUB_ID = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")


def dataset_directory(where: str, files: Sequence[str]) -> Path:
    """The directory below which `files` lie. where: a directory, or `owner/name[@revision]` of a hub data set.

    Raises ConfigError for another `where`, ProblemSetError if a file is missing, UnavailableError if the hub does
    not answer.
    """
    local = expanded(where)
    if where and local.is_dir():
        return _complete(local, files, where)
    match = _HUB_ID.fullmatch(where)
    if match is None:
        raise ConfigError(f"expected a directory or a hub data set (owner/name, owner/name@revision), got {where!r}")
    return _complete(_fetched(match["name"], match["revision"], files), files, where)


def _complete(directory: Path, files: Sequence[str], where: str) -> Path:
    missing = [name for name in files if not _is_file(directory / name)]
    if missing:
        present = sorted(path.parent.name for path in directory.glob(f"*/{Path(missing[0]).name}"))
        found = f"it has such files for {', '.join(present)}" if present else "it has no such files"
        raise ProblemSetError(f"{where}: expected the files {', '.join(missing)}; {found}")
    return directory


def _is_file(path: Path) -> bool:
    """Raises ProblemSetError where nobody may look."""
    try:
        return path.is_file()
    except OSError as error:
        raise ProblemSetError(f"{path}: expected this file, cannot look at it ({error.strerror})") from error


def _fetched(name: str, revision: str | None, files: Sequence[str]) -> Path:
    # The cache first: a hub with a newer revision would give the next process of this run other rows.
    cached = kept(DATA_SET, name, files, revision)
    # The client also knows a snapshot of which other files were fetched.
    if cached is not None and all((cached / file).is_file() for file in files):
        return cached
    return fetch(DATA_SET, name, files, revision)


_DOMAINS_SHOWN = 5
_NAMES_SHOWN = 8
_TABLES = frozenset({".parquet", ".csv", ".tsv", ".arrow"})

GENERATED = "generated"
SCIKNOWEVAL = "sciknoweval:"
REQUIRED_PARTITIONS = ("train", "validation", "test")


class ProblemRow(BaseModel):
    """One line of a problem file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    id: Worded = Field(max_length=200)
    domain: Worded = Field(max_length=200)
    question: Worded
    answer: Worded
    kind: str | None = None
    solution: str | None = None
    system: str | None = None


def load_problem_set(
    source: str,
    format: str | None = None,
    seed: int = 0,
    *,
    domains: tuple[str, ...] | None = None,
    kinds: int | None = None,
    per_kind: PerKind | None = None,
    validation_per_domain: int = 30,
) -> ProblemSet:
    """The problem set that `source` names: "generated", a directory, or "sciknoweval:<directory or hub id>".

    format: needed for a directory; the others bring their own. seed: for "generated", and for which of SciKnowEval's
    training rows validate (`validation_per_domain` of them). kinds, per_kind: for "generated". domains: the students',
    needed for SciKnowEval; of a directory those of train.jsonl follow, in the order in which they first occur.
    Raises `ProblemSetError` naming file and line, `ConfigError` for a source or format not known, `UnavailableError`
    if the hub does not answer.
    """
    if source == GENERATED:
        return _generated(format, seed, generated_domains(domains), kinds, per_kind)
    if source.startswith(SCIKNOWEVAL):
        return _sciknoweval(source, format, seed, domains, validation_per_domain)
    directory = _directory(source)
    files = _digests(directory / f"{name}.jsonl" for name in PARTITIONS)
    return _from_directory(directory, _format(source, format).name, domains, files)


def problems_of(settings: RunSettings) -> ProblemSet:
    """The problem set of a run. Raises as `load_problem_set`."""
    return load_problem_set(
        settings.problems.source,
        settings.problems.format,
        settings.run.seed,
        domains=settings.domains,
        kinds=settings.problems.kinds,
        validation_per_domain=settings.problems.validation_per_domain,
    )


def load_problems(settings: RunSettings) -> ProblemSet:
    """The problems of a run with the prompt that its feedback is asked with.

    Raises as `problems_of`, and ConfigError if a step cannot be shared out to the domains, or would need more different
    problems than there are.
    """
    problems = problems_of(settings)
    problems = replace(problems, format=format_named(settings.problems.format, settings.feedback.prompt))
    share, smallest = settings.problems.per_step, len(problems.train)
    if settings.problems.balance_domains:
        # Each domain has its share of a step then, so the smallest one decides.
        try:
            share = even_share(share, problems.domains)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        smallest = min(sum(problem.domain == domain for problem in problems.train) for domain in problems.domains)
    if share > smallest:
        raise ConfigError(
            f"problems.per_step: a step would need {share} different training problems, there are {smallest}"
        )
    return problems


def checked_set(problem_set: ProblemSet) -> ProblemSet:
    """The set, which knows where it contradicts itself. Raises `ProblemSetError` if a partition lacks a domain or a
    question stands in two partitions."""
    for name in REQUIRED_PARTITIONS:
        present = {problem.domain for problem in problem_set.partition(name)}
        for domain in problem_set.domains:
            if domain not in present:
                raise ProblemSetError(
                    f"{problem_set.name}: expected problems of {domain!r} in the partition {name}, got none; "
                    f"{_instead(problem_set, domain, present)}"
                )
    rows = [(name, row) for name in PARTITIONS for row in problem_set.partition(name)]
    again = refuse_shared_questions(problem_set.name, [(name, row.id, row.question) for name, row in rows])
    contradicted = (pair for places in again for pair in _contradicted([rows[at][1] for at in places]))
    return replace(problem_set, contradicted=tuple(contradicted))


def _contradicted(alike: Sequence[Problem]) -> Iterator[tuple[str, str]]:
    """Ids of the first of problems that ask the same, and of each whose answer is another one."""
    first, *others = ((each.id, answer_key(each.question, each.answer)) for each in alike)
    yield from ((first[0], problem) for problem, answer in others if answer != first[1])


def _instead(problem_set: ProblemSet, domain: str, present: set[str]) -> str:
    """What a partition has in place of a domain, and what to do about it."""
    first = ", ".join(shown(each) for each in sorted(present)[:_DOMAINS_SHOWN])
    has = f"it has those of {first}" if present else "it is empty"
    has += f" and of {len(present) - _DOMAINS_SHOWN} more" if len(present) > _DOMAINS_SHOWN else ""
    if any(problem.domain == domain for problem in problem_set.all_problems()):
        return f"{has}: add some of {domain!r}, or take them out of the other partitions"
    alike = {each.casefold(): each for each in present}
    close = difflib.get_close_matches(domain.casefold(), list(alike), n=1, cutoff=0.5)
    hint = f" (did you mean {shown(alike[close[0]])}?)" if close else ""
    return f"{has}{hint}: set students.<name>.domain to one that the set has"


# A set takes half a second to draw and to search for leaks, one of files a minute where it has a hundred thousand rows,
# and one command asks for its run's several times.
_once = lru_cache(maxsize=4)


@_once
def _generated(
    format: str | None, seed: int, domains: tuple[str, ...], kinds: int | None, per_kind: PerKind | None
) -> ProblemSet:
    loaded = generate(seed, domains, kinds=kinds, per_kind=per_kind)
    if format is not None and format_named(format) is not loaded.format:
        raise ConfigError(f"generated problems have the format {loaded.format.name}, got {format!r}; leave it out")
    return checked_set(loaded)


def generated_domains(domains: tuple[str, ...] | None) -> tuple[str, ...]:
    """The domains to generate, by default the laptop's. Raises ConfigError for others than are generated."""
    if domains is None:
        return DOMAINS
    if not set(domains) <= KINDS.keys():
        raise ConfigError(f"expected domains that are generated ({', '.join(KINDS)}), got {', '.join(domains)}")
    return domains


def _sciknoweval(
    source: str, format: str | None, seed: int, domains: tuple[str, ...] | None, validation_per_domain: int
) -> ProblemSet:
    if format not in (None, sciknoweval.FORMAT):
        raise ConfigError(f"{source}: expected problems.format = {sciknoweval.FORMAT!r}, got {format!r}")
    if domains is None:
        raise ConfigError(f"{source}: expected the domains to load, got none")
    files = [f"{domain}/{name}" for domain in domains for name in sciknoweval.FILES]
    directory = dataset_directory(source.removeprefix(SCIKNOWEVAL), files)
    digests = _digests(directory / file for file in files)
    return _sciknoweval_of(source, directory, seed, domains, validation_per_domain, digests)


@_once
def _sciknoweval_of(
    source: str,
    directory: Path,
    seed: int,
    domains: tuple[str, ...],
    validation_per_domain: int,
    digests: tuple[str, ...],  # noqa: ARG001  of what is read: other content is another set
) -> ProblemSet:
    loaded = sciknoweval.load_sciknoweval(
        directory, domains, seed=seed, validation_per_domain=validation_per_domain, source=source
    )
    return checked_set(loaded)


def _digests(files: Iterable[Path]) -> tuple[str, ...]:
    """sha256 (hex) of each; "" of what cannot be read, as whoever reads it will say."""
    return tuple(map(_digest, files))


def _digest(file: Path) -> str:
    try:
        if file.is_file():
            return sha256_file(file)
    except OSError:
        pass
    return ""


def _directory(source: str) -> Path:
    path = expanded(source)
    if path.is_dir():
        return path
    if difflib.get_close_matches(source, [GENERATED], n=1):
        hint = f"; did you mean {GENERATED!r}?"
    elif path.is_file():
        hint = f"; it is a file: name the directory with {_named(REQUIRED_PARTITIONS)} in it (docs/data.md)"
    elif _HUB_ID.fullmatch(source):
        hint = (
            "; of the hub's data sets SciKnowEval's alone is read as it is: `hf download --repo-type dataset` fetches "
            f"another one, and its rows are to be written as {_named(REQUIRED_PARTITIONS)} (docs/data.md)"
        )
    else:
        hint = ""
    raise ConfigError(
        f"expected {GENERATED!r}, a directory of problems, "
        f"or {SCIKNOWEVAL!r} with a directory or hub id, got {source!r}{hint}"
    )


def _named(partitions: Iterable[str]) -> str:
    return ", ".join(f"{name}.jsonl" for name in partitions)


def _format(source: str, format: str | None) -> ProblemFormat:
    if format is None:
        raise ConfigError(f"{source}: expected a format of {', '.join(format_names())} for it, got none")
    return format_named(format)


@_once
def _from_directory(
    directory: Path,
    format: str,
    domains: tuple[str, ...] | None,
    digests: tuple[str, ...],  # noqa: ARG001  as above
) -> ProblemSet:
    form = format_named(format)
    ids: dict[str, str] = {}
    # First: what domains there are beside those that are named is read off it.
    train = _read_partition(directory, "train", form, ids)
    loaded = ProblemSet(
        name=directory.resolve().name,
        format=form,
        domains=tuple(dict.fromkeys([*(domains or ()), *(problem.domain for problem in train)])),
        train=train,
        validation=_read_partition(directory, "validation", form, ids),
        test=_read_partition(directory, "test", form, ids),
        specialise=_read_partition(directory, "specialise", form, ids),
    )
    return checked_set(loaded)


def _beside(directory: Path) -> str:
    try:
        names = sorted(path.name for path in directory.iterdir())
    except OSError:
        return "its directory cannot be read"
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    has = (
        f"its directory has {', '.join(map(shown, names[:_NAMES_SHOWN]))}{more}" if names else "its directory is empty"
    )
    return has + _of_tables(directory)


def _of_tables(directory: Path) -> str:
    """What to do with the tables of a data set, which lie in its directory or in one of that."""
    files = sorted(file for pattern in ("*", "*/*") for file in directory.glob(pattern) if file.suffix in _TABLES)
    if not files:
        return ""
    return (
        f"; write the rows of {shown(files[0].relative_to(directory).as_posix())} and its like as JSON lines with our "
        f"fields into {_named(REQUIRED_PARTITIONS)}, as `datasets` and `pandas` do with `to_json(…, lines=True)`"
    )


def _read_partition(directory: Path, name: str, form: ProblemFormat, ids: dict[str, str]) -> tuple[Problem, ...]:
    """The rows of `<name>.jsonl`; `ids` collects where every id was first seen, over all files."""
    path = directory / f"{name}.jsonl"
    if not _is_file(path):
        if name in REQUIRED_PARTITIONS:
            raise ProblemSetError(
                f"{path}: expected this file, with an object of JSON a line (docs/data.md); {_beside(directory)}"
            )
        return ()
    problems = []
    for place, row in read_rows(path, ProblemRow):
        # What writes tables as JSON lines writes null where a row has nothing.
        problem = Problem(**{**row.model_dump(), "kind": row.kind or ""})
        refusal = form.refusal(problem)
        if refusal is not None:
            raise ProblemSetError(f"{place}: {refusal}")
        # Ids that look alike in two normal forms are one to a person, and to some file systems.
        known = ids.setdefault(unicodedata.normalize("NFC", problem.id), place)
        if known != place:
            raise ProblemSetError(f"{place}: expected a new id, got {shown(problem.id)} as in {known}")
        problems.append(problem)
    if not problems and name in REQUIRED_PARTITIONS:
        raise ProblemSetError(f"{path}: expected problems, an object of JSON a line (docs/data.md), the file has none")
    return tuple(problems)
