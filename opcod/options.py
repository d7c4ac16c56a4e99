"""Options that commands share, and the settings and paths that follow from them."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from shared.config.loading import load_settings, preset_names
from shared.config.settings import Paths, RunSettings
from shared.errors import ConfigError

DEFAULT_PRESET = "laptop"


def absolute(directory: str | Path) -> Path:
    """A directory as it was named on the command line, `~` for the home. Raises ConfigError where there is none."""
    try:
        return Path(directory).expanduser().resolve()
    except RuntimeError as error:
        raise ConfigError(
            f"{directory}: expected a directory, there is no home here that `~` could mean; name it in full, "
            "the cache's by --cache-dir or OPCOD_CACHE_DIR"
        ) from error


# By `absolute`: a shell leaves the `~` of `--runs-dir=~/runs` as it is, and so does an environment.
RunsDir = Annotated[
    Path,
    typer.Option(
        "--runs-dir",
        envvar="OPCOD_RUNS_DIR",
        parser=absolute,
        metavar="PATH",
        help="Where runs lie, one directory each.",
    ),
]
CacheDir = Annotated[
    Path, typer.Option("--cache-dir", envvar="OPCOD_CACHE_DIR", help="Models and specialists, shared by all runs.")
]
Preset = Annotated[str | None, typer.Option("--preset", help=f"Settings to begin with: {', '.join(preset_names())}.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="A TOML file on top of the preset.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="section.key=value on top of everything (docs/configuration.md has them all); may be repeated."
    ),
]

RUNS_DIR = Path("runs")


def _default_cache_dir(environ: Mapping[str, str]) -> Path:
    """With `~` where there is no home directory: most of what `opcod` does needs none, and `absolute` refuses it."""
    directory = Path(environ.get("XDG_CACHE_HOME") or "~/.cache") / "opcod"
    with suppress(RuntimeError):
        return directory.expanduser()
    return directory


CACHE_DIR = _default_cache_dir(os.environ)


def settings_from(preset: str | None, config: Path | None, overrides: list[str] | None) -> RunSettings:
    """The preset counts as `laptop` when neither it nor a file is named."""
    chosen = preset or (None if config else DEFAULT_PRESET)
    return load_settings(preset=chosen, config=config, overrides=overrides or ())


def settings_on(paths: Paths, preset: str | None, config: Path | None, overrides: list[str] | None) -> RunSettings:
    """What is asked of an existing run: without preset and file, the run's own settings with the overrides."""
    # A run's config.toml holds every setting, so a preset below it would never be seen.
    own = config if preset or config else paths.run_dir / "config.toml"
    return load_settings(preset=preset, config=own, overrides=overrides or ())


def given(preset: str | None, config: Path | None, overrides: list[str] | None) -> bool:
    """Whether any setting was named on the command line."""
    return preset is not None or config is not None or bool(overrides)


def paths_for(runs_dir: Path, run: str, cache_dir: Path) -> Paths:
    return Paths(runs_dir=absolute(runs_dir), run=run, cache_dir=absolute(cache_dir))
