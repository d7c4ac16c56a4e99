"""`opcod eval`: score one version of a student; nothing needs to be up.

A process of its own loads the version, answers the questions of a file into another one, and ends.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from opcod.installed import require_model_packages
from opcod.local.answering import answer
from opcod.local.deployment import latest_run
from opcod.local.progress import make_console
from opcod.local.signals import interruptible
from opcod.options import CACHE_DIR, RUNS_DIR, CacheDir, RunsDir, paths_for
from opcod.prepare.checks import check_directory
from opcod.prepare.models import prepare_models
from opcod.prepare.run_directory import stored_settings
from opcod.report.inspect_log import require_inspect, write_inspect_log
from opcod.weights import span
from shared.config.settings import Paths, RunSettings
from shared.contracts.ids import parse_version, seed_of, version_name
from shared.contracts.jobs import Question, Questions
from shared.errors import ConfigError
from shared.files.durable import atomic_write
from shared.files.retention import versions_on_disk
from shared.files.text import expanded
from shared.problems.evaluation import per_domain
from shared.problems.loading import SCIKNOWEVAL, load_problem_set
from shared.problems.pinned import problems_of_run
from shared.problems.problem import Problem, ProblemFormat, ProblemSet, rows_hash
from shared.results.evaluation import Evaluation, Subject, evaluate, seen

EVALUATIONS = "eval"
"""Of a run's directory: where the results go."""

OWN_PARTITIONS = ("test", "validation", "train")

Source = Annotated[
    str,
    typer.Option(
        "--problems",
        help=f"{', '.join(OWN_PARTITIONS)}: of the run's problems; or another source, of which the test problems are "
        "taken.",
    ),
]

InspectLog = Annotated[
    Path | None,
    typer.Option(
        "--inspect-log",
        parser=expanded,
        metavar="PATH",
        help="Write a log for `inspect view` into this directory, too.",
    ),
]


def evaluate_student(
    student: Annotated[
        str,
        typer.Option("--student", help="a@v12, a (its newest version) or a@v0 (the base model)."),
    ],
    run_name: Annotated[str | None, typer.Option("--run", help="Default: the run begun last.")] = None,
    problems: Source = "test",
    samples: Annotated[int, typer.Option("--samples", min=1, help="k of avg@k: answers to each problem.")] = 16,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, help="Problems of each domain; default: as many as the run evaluates on."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the file's content instead of the table.")] = False,
    inspect_log: InspectLog = None,
    runs_dir: RunsDir = RUNS_DIR,
    cache_dir: CacheDir = CACHE_DIR,
) -> None:
    """Score one version of a student: avg@k by domain, with intervals and baselines.

    Only strict grading is the score. The samples are seeded: the same command gives the same numbers on the same
    machine. The result also goes to eval/ in the run's directory.

    Example: `opcod eval --student a`, and beside it the model that training began with: `opcod eval --student a@v0`
    """
    require_model_packages("`opcod eval`")
    console = make_console()
    paths = paths_for(runs_dir, run_name or latest_run(runs_dir), cache_dir)
    settings = stored_settings(paths, begins=True)
    # Whatever can be refused is refused before a model is loaded.
    version = resolve_version(paths, sorted(settings.students), student)
    check_directory("--runs-dir", paths.run_dir / EVALUATIONS)
    if inspect_log is not None:
        require_inspect()
        check_directory("--inspect-log", inspect_log)
    chosen = _chosen(problems, paths.run_dir, settings, limit)
    questions = _questions(version, samples, settings, chosen)

    def say(what: str) -> None:
        if not as_json:
            console.print(what)

    with interruptible() as interrupted:
        # The run may be up, and its services go by the plan that there is.
        wanted = (questions.student,)
        prepare_models(
            paths, settings, lambda what: say(f"preparing: {what}"), interrupted, students=wanted, purpose=None
        )
        say(f"{version} answers {len(chosen.problems)} problems, {samples} samples each")
        [answers] = answer(paths, [questions], say, interrupted)
    evaluated = _evaluated(paths.run, settings.run.seed, questions, chosen, answers.checksum)
    result = evaluate(evaluated, chosen.problems, answers.outputs, chosen.format)
    file = paths.run_dir / EVALUATIONS / evaluated.file_name
    atomic_write(file, result.model_dump_json(indent=1).encode())
    if inspect_log is not None:
        log = write_inspect_log(inspect_log, result, chosen.problems, questions, answers.outputs, chosen.format)
        say(f"log: {log}")
    if as_json:
        typer.echo(result.model_dump_json(indent=1))
    else:
        _show(result, file, console)


def _show(result: Evaluation, file: Path, console: Console) -> None:
    console.print(table(result))
    for line in remarks(result):
        console.print(line)
    console.print(f"evaluation: {file}", soft_wrap=True)


def table(result: Evaluation) -> Table:
    """One row a domain, in percent."""
    what = result.evaluated
    grid = Table(
        "domain",
        "problems",
        f"score (avg@{what.samples})",
        "95 % interval",
        "majority baseline",
        "lenient (not the score)",
        "form kept",
        "truncated",
        title=f"{what.version} on {what.source}, %",
        title_justify="left",
    )
    for row in result.domains:
        low, high = row.interval
        rest = (row.majority, row.lenient, row.format_ok, row.truncated)
        numbers = [f"{100 * row.score:.1f}", f"{100 * low:.1f} to {100 * high:.1f}", *(f"{100 * x:.1f}" for x in rest)]
        grid.add_row(row.domain, str(row.problems), *numbers)
    return grid


def remarks(result: Evaluation) -> list[str]:
    """What a reader must know before quoting a number."""
    lines = []
    if result.evaluated.seen_in_training:
        lines.append(
            f"{result.evaluated.seen_in_training} of the {result.evaluated.problems} problems stand in this run's "
            "training problems: their score says nothing about new ones."
        )
    below = [row.domain for row in result.domains if row.score <= row.majority]
    if below:
        lines.append(f"Not above the best constant answer: {', '.join(below)}.")
    return lines


@dataclass(frozen=True)
class Chosen:
    """The problems to score on. source: as it was asked for; seen: how many of them stand in the run's training."""

    source: str
    partition: str
    problems: tuple[Problem, ...]
    format: ProblemFormat
    seen: int


def _chosen(asked: str, run_dir: Path, settings: RunSettings, limit: int | None) -> Chosen:
    own = problems_of_run(run_dir, settings)
    problem_set, partition = _problems(asked, settings, own)
    most = limit or _usual_limit(asked, settings)
    chosen = per_domain(problem_set, problem_set.partition(partition), most, setting="--limit", where=partition)
    return Chosen(asked, partition, chosen, problem_set.format, seen(chosen, own.train + own.specialise))


def _evaluated(run: str, seed: int, questions: Questions, chosen: Chosen, checksum: str) -> Subject:
    return Subject(
        run=run,
        student=questions.student,
        version=questions.version,
        checksum=checksum,
        source=chosen.source,
        partition=chosen.partition,
        problems=len(chosen.problems),
        problems_hash=rows_hash(chosen.problems),
        format=chosen.format.name,
        samples=questions.samples,
        sampling=questions.sampling,
        seed=seed,
        seen_in_training=chosen.seen,
    )


def _problems(asked: str, settings: RunSettings, own: ProblemSet) -> tuple[ProblemSet, str]:
    if asked in OWN_PARTITIONS:
        return own, asked
    loaded = load_problem_set(
        asked,
        settings.problems.format,
        settings.run.seed,
        # SciKnowEval has more domains than a run uses; other sources are taken whole.
        domains=own.domains if asked.startswith(SCIKNOWEVAL) else None,
        validation_per_domain=settings.problems.validation_per_domain,
    )
    return loaded, "test"


def _usual_limit(asked: str, settings: RunSettings) -> int | None:
    evaluation = settings.evaluation
    return {"test": evaluation.test_problems, "validation": evaluation.validation_problems}.get(asked)


def _questions(version: str, samples: int, settings: RunSettings, chosen: Chosen) -> Questions:
    """A problem's samples are seeded by run and problem alone, so that versions and students are compared on them."""
    return Questions(
        student=parse_version(version)[0],
        version=version,
        samples=samples,
        sampling=settings.evaluation.sampling,
        questions=tuple(
            Question(
                messages=tuple(chosen.format.messages(problem)),
                seed=seed_of(settings.run.seed, "eval", problem.id),
            )
            for problem in chosen.problems
        ),
    )


def resolve_version(paths: Paths, students: Sequence[str], asked: str) -> str:
    """`a` is the newest published version, `a@v0` the base model. Raises ConfigError for what is not there."""
    student, at, _ = asked.partition("@")
    if student not in students:
        raise ConfigError(f"--student: expected one of {', '.join(students)}, or such as a@v12, got {asked!r}")
    # By what lies on disk and not by the state: an evaluation needs the files, and a run need not be up.
    published = published_steps(paths, student)
    if not at:
        return version_name(student, max(published, default=0))
    try:
        steps = parse_version(asked)[1]
    except ValueError as error:
        raise ConfigError(f"--student: {error}") from error
    # Version 0 is the base model, which nobody publishes.
    if steps and steps not in published:
        there = f"0 and {span(published)}" if published else "0, the base model"
        raise ConfigError(
            f"--student: {asked} is not published in {paths.run_dir / 'weights'}, or was pruned; there is {there}"
        )
    return version_name(student, steps)


def published_steps(paths: Paths, student: str) -> list[int]:
    """Steps of the versions that lie there whole, in order; not of pruned ones."""
    return sorted(versions_on_disk(paths.run_dir, student))
