"""`opcod probe`: what two students can learn from each other, told before any training; it refuses nothing."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from opcod.installed import require_model_packages
from opcod.local.progress import make_console
from opcod.local.signals import interruptible
from opcod.options import (
    CACHE_DIR,
    DEFAULT_PRESET,
    RUNS_DIR,
    CacheDir,
    ConfigFile,
    Overrides,
    RunsDir,
    paths_for,
    settings_from,
)
from opcod.prepare.checks import check_directory, check_name, check_settings, notes_before
from opcod.prepare.models import prepare_models
from opcod.prepare.run_directory import create_run
from opcod.probe.probing import probe
from opcod.probe.questions import plan_probe
from opcod.report.probe_text import print_probe, to_markdown
from shared.files.durable import atomic_write


def probe_pair(
    preset: Annotated[
        str | None, typer.Argument(help=f"Settings to begin with; default: {DEFAULT_PRESET}.", metavar="[PRESET]")
    ] = None,
    problems_per_kind: Annotated[
        int, typer.Option("--problems-per-kind", min=1, help="Training problems of each kind.")
    ] = 3,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Answers to each of them.")] = 4,
    seed: Annotated[int | None, typer.Option("--seed", help="The run's seed, as --set run.seed.")] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="The files' directory below the runs'; default: the preset.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the file's content instead of the tables.")] = False,
    config: ConfigFile = None,
    overrides: Overrides = None,
    runs_dir: RunsDir = RUNS_DIR,
    cache_dir: CacheDir = CACHE_DIR,
) -> None:
    """Ask a pair before it is trained: what each knows, can teach the other, and can be taught.

    The answer is by student and kind of problem, with the kinds that nobody can teach, and why. Specialists come from
    the cache, or are made first. Nothing else is trained; probe.md and probe.json go to the named directory.

    Example: `opcod probe laptop-chem-bio`
    """
    require_model_packages("`opcod probe`")
    console = make_console()
    named = overrides or [] if seed is None else [*(overrides or []), f"run.seed={seed}"]
    settings = settings_from(preset, config, named)
    name = name or preset or (config.stem if config else DEFAULT_PRESET)
    check_name(name)
    kept = runs_dir / name
    check_directory("--runs-dir", kept)
    plan = plan_probe(settings, problems_per_kind, samples)

    def say(text: str) -> None:
        if not as_json:
            console.print(text)

    # A run that nobody sees: students and trainers find their settings and models in one.
    with tempfile.TemporaryDirectory(prefix="opcod-") as directory, interruptible() as interrupted:
        paths = paths_for(Path(directory), name, cache_dir)
        check_settings(paths, settings, takes_steps=False)
        for note in notes_before(paths, settings):
            say(f"note: {note}")
        create_run(paths, settings)
        prepare_models(paths, settings, lambda text: say(f"preparing: {text}"), interrupted)
        found = probe(name, paths, plan, say, interrupted)
    kept.mkdir(parents=True, exist_ok=True)
    atomic_write(kept / "probe.json", found.model_dump_json(indent=1).encode())
    atomic_write(kept / "probe.md", to_markdown(found).encode())
    if as_json:
        typer.echo(found.model_dump_json(indent=1))
        return
    print_probe(found, console)
    console.print(f"probe: {kept / 'probe.md'}", soft_wrap=True)
