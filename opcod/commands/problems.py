"""`opcod problems`: look at a problem set."""

from typing import Annotated

import typer

from opcod.options import ConfigFile, Overrides, Preset, settings_from
from opcod.talk.text import indented, on_one_line
from shared.errors import ConfigError
from shared.problems.coverage import told_of
from shared.problems.loading import load_problems
from shared.problems.manifest import manifest
from shared.problems.problem import PARTITIONS, Problem, spread

app = typer.Typer(no_args_is_help=True)


@app.callback()
def problems() -> None:
    """Look at the problems of a run's settings before it is begun."""


@app.command("show")
def show(
    partition: Annotated[str, typer.Option("--partition", help=f"One of {', '.join(PARTITIONS)}.")] = "train",
    domain: Annotated[str | None, typer.Option("--domain", help="Default: all.")] = None,
    count: Annotated[int, typer.Option("--count", min=1, help="How many.")] = 10,
    summary: Annotated[bool, typer.Option("--summary", help="Counts and hashes as JSON instead.")] = False,
    preset: Preset = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Print problems with their answers, or the set's manifest."""
    found = load_problems(settings_from(preset, config, overrides))
    for note in told_of(found):
        typer.echo(f"note: {note}", err=True)
    if summary:
        typer.echo(manifest(found).model_dump_json(indent=1))
        return
    if domain is not None and domain not in found.domains:
        raise ConfigError(f"expected a domain of {', '.join(found.domains)}, got {domain!r}")
    chosen = [p for p in found.partition(partition) if domain is None or p.domain == domain]
    for problem in spread(chosen, count):
        typer.echo(entry(problem))


def entry(problem: Problem) -> str:
    """A problem as a person reads it."""
    return f"{on_one_line(problem.id)}\n{indented(problem.question)}\n  answer: {on_one_line(problem.answer)}"
