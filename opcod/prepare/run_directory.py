"""A run's directory as it is begun or gone on with: its name and identity, `config.toml` and `problems.json`.

What always holds: a run goes on with the settings, the problems and the name it was begun with, or not at all.
"""

import re
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ValidationError

from opcod.local.deployment import require_run
from opcod.options import given, settings_on
from shared.config.loading import asked_settings, differences, to_toml
from shared.config.settings import Paths, RunSettings
from shared.contracts.run import STATE_FILE
from shared.errors import ConfigError
from shared.files.durable import atomic_write
from shared.files.state import write_identity
from shared.problems.manifest import manifest
from shared.problems.pinned import PROBLEMS_FILE, problems_to_go_on_with, read_manifest
from shared.problems.problem import ProblemSet

MAX_NAMED_CHARS = 40
"""Of a run's name that a file's gives: 64 are all, and the time takes 16."""


def pin_problems(paths: Paths, settings: RunSettings) -> ProblemSet:
    """Write the manifest, or compare with the one that is there; returns the problems.

    Raises ConfigError if the problems, or those of its evaluations, are not what they were when the run was begun, and
    as `load_problems`.
    """
    problems = problems_to_go_on_with(paths.run_dir, settings)
    if read_manifest(paths.run_dir) is None:
        atomic_write(paths.run_dir / PROBLEMS_FILE, manifest(problems).model_dump_json(indent=1).encode())
    return problems


def new_run_name(preset: str | None, config: Path | None = None) -> str:
    """Of the preset, or else the file, that the run is begun with, and of the time."""
    return f"{preset or (named_after(config) if config else 'run')}-{datetime.now(UTC).strftime('%Y%m%d-%H%M%S')}"


def named_after(config: Path) -> str:
    """What runs of that file are called; a file may be called as no run may."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", config.stem).strip("-._")[:MAX_NAMED_CHARS] or "run"


def create_run(paths: Paths, settings: RunSettings) -> None:
    """The run's directory with its identity and its config.toml. Raises ConfigError if it is taken."""
    if (paths.run_dir / "config.toml").exists():
        raise ConfigError(
            f"{paths.run_dir} holds a run already; go on with `opcod run --resume {paths.run}`, or choose another --run"
        )
    paths.run_dir.mkdir(parents=True, exist_ok=True)
    # First: with its config.toml the run is begun, and its broker asks for the identity.
    write_identity(paths.run_dir)
    atomic_write(paths.run_dir / "config.toml", to_toml(settings).encode())


def stored_settings(paths: Paths, *, begins: bool = False) -> RunSettings:
    """Settings of an existing run. begins: whether something is to be started with them, which may be refused today of
    a run that began before. Raises ConfigError if there is none."""
    require_run(paths.run_dir)
    _refuse_another_name(paths)
    return asked_settings(paths.run_dir, begins=begins)


class _Named(BaseModel):
    """Of state.json, whatever else it holds."""

    run: str


def _refuse_another_name(paths: Paths) -> None:
    """A run's batches, versions and checkpoints hold its name, and services refuse those of another."""
    state = paths.run_dir / STATE_FILE
    try:
        name = _Named.model_validate_json(state.read_bytes()).run if state.exists() else paths.run
    except ValidationError:
        return  # the broker says what is wrong with it
    if name != paths.run:
        raise ConfigError(
            f"{paths.run_dir} holds the run {name!r}, whose files say so: expected its directory to have that name; "
            f"rename it, or move it into another --runs-dir as {name}"
        )


def kept_settings(paths: Paths, preset: str | None, config: Path | None, overrides: list[str] | None) -> RunSettings:
    """Settings of an existing run, whose command line may name settings, but no others."""
    settings = stored_settings(paths, begins=True)
    if given(preset, config, overrides):
        refuse_changes(settings, settings_on(paths, preset, config, overrides))
    return settings


def refuse_changes(stored: RunSettings, asked: RunSettings) -> None:
    """A run goes on with the settings it was begun with. Raises ConfigError showing every difference."""
    changed = differences(stored, asked)
    if changed:
        raise ConfigError(
            "a run is resumed with the settings it was begun with, and others want a run of another name (--run, with "
            "Compose OPCOD_RUN in .env); these differ:\n  " + "\n  ".join(changed)
        )
