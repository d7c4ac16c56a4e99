"""The runs of a comparison: their names and settings, what is there already, and what they share."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from opcod.options import paths_for
from opcod.planning.disk import disk_needs, require_disk_of
from opcod.prepare.checks import check_settings
from opcod.prepare.run_directory import refuse_changes, stored_settings
from opcod.report.writing import REPORT_FILE, report_directory
from shared.config.environment import RUN_NAME
from shared.config.loading import load_settings
from shared.config.settings import Paths, RunSettings
from shared.contracts.run import INITIAL_SCORES_FILE, STATE_FILE
from shared.errors import ConfigError, StorageError, reason
from shared.files.durable import atomic_write
from shared.problems.pinned import problems_of_run, problems_to_go_on_with
from shared.results.comparison import METHODS, RunFigures, alike
from shared.results.glance import duration

USUAL, USUAL_MINUTES = "laptop", (7, 12)
"""A preset, and how long a run of it takes on two CPU cores, as README and FAQ say."""


@dataclass(frozen=True)
class ComparedRun:
    """One method on one seed."""

    method: str
    seed: int
    paths: Paths
    settings: RunSettings

    @property
    def exists(self) -> bool:
        return (self.paths.run_dir / "config.toml").exists()


@dataclass(frozen=True)
class Source:
    """Where the settings that all runs have in common come from."""

    preset: str | None
    config: Path | None
    overrides: Sequence[str]


def plan_runs(
    name: str, methods: Sequence[str], seeds: Sequence[int], source: Source, runs_dir: Path, cache_dir: Path
) -> list[ComparedRun]:
    """Seed by seed, so that a comparison which is stopped early has whole seeds. Raises ConfigError."""
    if not re.fullmatch(RUN_NAME, name):
        raise ConfigError(f"--name: expected letters, digits, '.', '_' and '-', got {name!r}")
    if (runs_dir / name / "config.toml").exists():
        raise ConfigError(f"{runs_dir / name} is a run; give the comparison another --name")
    return [
        planned
        for seed in seeds
        for method in methods
        # Methods that compute the same on these settings are one run, planned under the first of them.
        if method == alike(method, methods)[0]
        for planned in [_of_seed(name, alike(method, methods), seed, source, runs_dir, cache_dir)]
    ]


def _of_seed(
    name: str, methods: Sequence[str], seed: int, source: Source, runs_dir: Path, cache_dir: Path
) -> ComparedRun:
    """Of methods that compute the same, the first whose run is there already, else the first."""
    candidates = [
        ComparedRun(
            method, seed, paths_for(runs_dir, f"{name}-{method}-s{seed}", cache_dir), _settings(source, method, seed)
        )
        for method in methods
    ]
    return next((run for run in candidates if run.exists), candidates[0])


def check_runs(runs: Sequence[ComparedRun]) -> list[str]:
    """Before anything starts: settings of runs that are there, all that a new one needs, and room for those that are
    not finished. Returns what the new ones would lose by texts that are too long, each once. Raises ConfigError."""
    unfinished = []
    notes: dict[str, None] = {}
    for run in runs:
        if not run.exists:
            notes |= dict.fromkeys(check_settings(run.paths, run.settings))
            unfinished.append(run)
            continue
        try:
            refuse_changes(stored_settings(run.paths), run.settings)
            finished = figures_of(run) is not None
            same = problems_of_run if finished else problems_to_go_on_with
            same(run.paths.run_dir, run.settings)
        except ConfigError as error:
            raise ConfigError(f"{run.paths.run}: {error}\nGive the comparison another --name.") from error
        if not finished:
            unfinished.append(run)
    if unfinished:
        require_disk_of([(run.paths, run.settings) for run in unfinished])
    return list(notes)


def outlook(runs: Sequence[ComparedRun], source: Source) -> str | None:
    """How many runs are to be made, on how much disk and for about how long; None where all are finished."""
    found = [figures_of(run) for run in runs]
    to_come = [run for run, figures in zip(runs, found, strict=True) if figures is None]
    if not to_come:
        return None
    disk = sum(need.bytes for need in disk_needs([(run.paths, run.settings) for run in to_come]))
    spent = [figures.wall_s for figures in found if figures is not None]
    if spent:
        took = f"about {duration(len(to_come) * sum(spent) / len(spent))}, as long as those that are finished took"
    elif source == Source(USUAL, None, ()):
        least, most = (duration(len(to_come) * 60 * minutes) for minutes in USUAL_MINUTES)
        took = f"{least} to {most} on two CPU cores"
    else:
        took = "how long each takes its page says from its first step on"
    count = f"{len(to_come)} runs, one after the other" if len(to_come) > 1 else "one run"
    return f"{count}: {took}; on {disk / 1e9:.1f} GB of disk at most"


def figures_of(run: ComparedRun) -> RunFigures | None:
    """Of a finished run, from its report; None if there is none, or the run is not finished."""
    path = report_directory(run.paths.run_dir) / REPORT_FILE
    if not path.exists():
        return None
    try:
        figures = RunFigures.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise StorageError(
            f"cannot read {path}: {reason(error)}; remove it, and the run's report is written again"
        ) from error
    return figures if figures.finished else None


def share_initial_scores(run: ComparedRun, runs: Sequence[ComparedRun]) -> str | None:
    """Give a run that has not begun the initial scores of another one of its seed; returns that one's name.

    The broker takes them over if both began alike, and refuses them otherwise.
    """
    path = run.paths.run_dir / INITIAL_SCORES_FILE
    # It has begun, or was given some already.
    if (run.paths.run_dir / STATE_FILE).exists() or path.exists():
        return None
    for other in runs:
        measured = other.paths.run_dir / INITIAL_SCORES_FILE
        if other.seed == run.seed and measured.exists():
            atomic_write(path, measured.read_bytes())
            return other.paths.run
    return None


def _settings(source: Source, method: str, seed: int) -> RunSettings:
    return load_settings(
        preset=source.preset,
        config=source.config,
        overrides=[*source.overrides, *METHODS[method], f"run.seed={seed}"],
    )
