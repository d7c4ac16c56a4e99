"""`opcod ask`: one student answers, its peer gives feedback, the first answers again."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from opcod.client import Client
from opcod.deployment import Deployment, is_elsewhere, latest_run, live_deployment, run_lock
from opcod.launcher import Launcher
from opcod.options import CACHE_DIR, RUNS_DIR, CacheDir, ConfigFile, Overrides, Preset, RunsDir, paths_for
from opcod.preparing import prepare_models, stored_settings
from shared.contracts.http import AskRequest, AskResponse
from shared.errors import UnavailableError


def ask(
    problem: Annotated[str, typer.Argument(help="The question.")],
    run_name: Annotated[str | None, typer.Option("--run", help="Default: what is up, else the run begun last.")] = None,
    first: Annotated[str | None, typer.Option("--first", help="The student that answers: a or b.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Same seed, same answers.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The whole exchange as JSON.")] = False,
    preset: Preset = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    runs_dir: RunsDir = RUNS_DIR,
    cache_dir: CacheDir = CACHE_DIR,
) -> None:
    """Ask the peers. Starts the run's services for the question if nothing is up."""
    del preset, config, overrides  # a run brings its settings; the options are there as in every command
    with _deployment(runs_dir, run_name, cache_dir) as deployment:
        client = Client(deployment)
        request = AskRequest(problem=problem, first=first, seed=seed)
        answer = client.broker("POST", "/v1/peers/ask", AskResponse, request)
        client.close()
    if as_json:
        typer.echo(answer.model_dump_json(indent=1))
        return
    for line in exchange_lines(answer):
        typer.echo(line)


def exchange_lines(answer: AskResponse) -> list[str]:
    """The exchange as a person reads it."""
    lines = [
        f"{answer.first} ({answer.first_version}) answers:",
        f"  {answer.answer.strip()}",
        f"{answer.tutor} ({answer.tutor_version}) says, on the concept {answer.concept or '–'} [{answer.verdict}]:",
        f"  {answer.feedback_raw.strip() or '(nothing)'}",
    ]
    if answer.revised is None:
        return [*lines, f"not passed on ({answer.verdict}); {answer.first} keeps its answer"]
    if answer.feedback is not None and answer.feedback.strip() != answer.feedback_raw.strip():
        lines += ["passed on as:", f"  {answer.feedback.strip()}"]
    return [*lines, f"{answer.first} answers again:", f"  {answer.revised.strip()}"]


@contextmanager
def _deployment(runs_dir: Path, run_name: str | None, cache_dir: Path) -> Iterator[Deployment]:
    """What is up; else the run's services, started for this question and stopped after it."""
    try:
        found = live_deployment(runs_dir.resolve(), run_name)
    except UnavailableError:
        if is_elsewhere():
            raise
        found = None
    if found is not None:
        yield found
        return
    console = Console(stderr=True)
    paths = paths_for(runs_dir, run_name or latest_run(runs_dir), cache_dir)
    settings = stored_settings(paths)
    with run_lock(paths.run_dir):
        prepare_models(paths, settings, lambda what: console.print(f"preparing: {what}"))
        launcher = Launcher(paths, settings, "up")
        try:
            yield launcher.start(lambda what: console.print(f"starting: {what}", highlight=False))
        finally:
            launcher.stop()
