"""`opcod compare`: methods side by side over seeds, on the same problems, specialists and initial scores."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from opcod.commands.run import train
from opcod.local.deployment import refuse_elsewhere
from opcod.local.progress import make_console, tell
from opcod.options import CACHE_DIR, DEFAULT_PRESET, RUNS_DIR, CacheDir, ConfigFile, Overrides, Preset, RunsDir
from opcod.planning.disk import require_disk
from opcod.prepare.run_directory import create_run, named_after
from opcod.report.comparing import ComparedRun, Source, check_runs, figures_of, outlook, plan_runs, share_initial_scores
from shared.errors import ConfigError, OpcodError, StoppedError, StorageError, UnavailableError, reason
from shared.files.durable import atomic_write
from shared.results.comparison import (
    COMPARISON_FILE,
    METHODS,
    Comparison,
    compare_methods,
    parse_methods,
    parse_seeds,
    refuse_owned,
)
from shared.results.comparison_text import grids, to_markdown, verdict_lines
from shared.results.grid import terminal

Methods = Annotated[str, typer.Option("--methods", help=f"Of {', '.join(METHODS)}; the first is the reference.")]
Seeds = Annotated[
    str, typer.Option("--seeds", help="How many (3: seeds 0, 1, 2), or which: 1000-1007, 0-3,7, or 7-7 for one.")
]
OF_ALL = (ConfigError, StorageError, UnavailableError, StoppedError)
"""Settings, a disk or a server that the next run would meet, too, or Ctrl-C: these end a comparison."""

Name = Annotated[
    str | None,
    typer.Option("--name", help="Runs are called `<name>-<method>-s<seed>`; default: the preset, or the file."),
]


def compare(
    methods: Methods = "opcod,sdpo,grpo",
    seeds: Seeds = "3",
    name: Name = None,
    preset: Preset = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    runs_dir: RunsDir = RUNS_DIR,
    cache_dir: CacheDir = CACHE_DIR,
) -> None:
    """Compare methods: a run for each method and seed, and one table with intervals over the seeds.

    Finished runs are read, not made again; an interrupted comparison goes on with the same command. A run that fails is
    left out, and named at the end.
    """
    refuse_elsewhere("`opcod compare`")
    console = make_console()
    chosen, which = parse_methods(methods), parse_seeds(seeds)
    refuse_owned(overrides or ())
    source = Source(preset or (None if config else DEFAULT_PRESET), config, overrides or ())
    name = name or preset or (named_after(config) if config else DEFAULT_PRESET)
    runs = plan_runs(name, chosen, which, source, runs_dir, cache_dir)
    for note in check_runs(runs):
        _say(console, f"note: {note}")
    if (told := outlook(runs, source)) is not None:
        _say(console, told)
    directory = runs_dir / name
    standing: dict[str, OpcodError] = {}
    for number, run in enumerate(runs, start=1):
        place = f"[{number} of {len(runs)}] {run.paths.run}"
        # Never made again, so the same command goes on where it was interrupted.
        if figures_of(run) is not None:
            _say(console, f"{place}: finished already, read")
            continue
        code = 0
        try:
            code = _make(run, runs, place, console)
        except OF_ALL:
            raise
        except OpcodError as error:
            standing[run.paths.run] = error
            _say(console, f"{place}: {error}")
        # After each run, also one that failed: a comparison takes long, and what there is of it can be read.
        _write(directory, name, chosen, which, runs)
        if code != 0:
            console.print("The comparison stands; the same command goes on with it.")
            raise typer.Exit(code)
    comparison = _write(directory, name, chosen, which, runs)
    for grid in grids(comparison):
        console.print(terminal(grid))
    for line in verdict_lines(comparison):
        console.print(line, style="bold")
    console.print(f"comparison: {directory / 'compare.md'}")
    _refuse_standing(standing)


def _refuse_standing(standing: Mapping[str, OpcodError]) -> None:
    """Raises OpcodError if there is any run, by name with what it ended with, that the comparison lacks."""
    if standing:
        listed = "".join(f"\n  {run}: {reason(error)}" for run, error in standing.items())
        raise OpcodError(
            f"expected every run to finish, the comparison is without {len(standing)}:{listed}\n"
            "The same command goes on with those that can; one that has failed for good stays so: remove or rename its "
            "directory, and the same command makes it anew"
        )


def _make(run: ComparedRun, runs: Sequence[ComparedRun], place: str, console: Console) -> int:
    """Begin the run or go on with it; returns an exit code, 0 if it is finished. Raises as `train`, and ConfigError
    where the disk has no room for it any more."""
    require_disk(run.paths, run.settings)
    resumed = run.exists
    if not resumed:
        create_run(run.paths, run.settings)
    _say(console, f"{place}: {'going on' if resumed else 'begins'}")
    shared_by = share_initial_scores(run, runs)
    if shared_by is not None:
        _say(console, f"{place}: initial scores taken over from {shared_by}")
    return train(run.paths, run.settings, console, resumed=resumed)


def _say(console: Console, text: str) -> None:
    tell(console, text, style="bold")


def _write(
    directory: Path, name: str, methods: Sequence[str], seeds: Sequence[int], runs: Sequence[ComparedRun]
) -> Comparison:
    """compare.json, compare.md and the pictures, from the runs that are finished so far."""
    from opcod.report.pictures import draw_comparison

    found = {(run.method, run.seed): figures for run in runs if (figures := figures_of(run)) is not None}
    comparison = compare_methods(name, methods, seeds, found)
    directory.mkdir(parents=True, exist_ok=True)
    draw_comparison(comparison, directory)
    atomic_write(directory / COMPARISON_FILE, comparison.model_dump_json(indent=1).encode())
    atomic_write(directory / "compare.md", to_markdown(comparison).encode())
    return comparison
