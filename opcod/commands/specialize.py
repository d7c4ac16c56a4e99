"""`opcod specialize`: fine-tune the students on their own domains, into the cache."""

import tempfile
from pathlib import Path

from rich.console import Console

from opcod.checking import check_settings
from opcod.options import CACHE_DIR, CacheDir, ConfigFile, Overrides, Preset, paths_for, settings_from
from opcod.preparing import create_run, prepare_models


def specialize(
    preset: Preset = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    cache_dir: CacheDir = CACHE_DIR,
) -> None:
    """Fine-tune what `opcod run` would, so that a run finds it in the cache."""
    console = Console()
    settings = settings_from(preset, config, overrides)
    with tempfile.TemporaryDirectory(prefix="opcod-") as directory:
        paths = paths_for(Path(directory), "specialize", cache_dir)
        check_settings(paths, settings)
        create_run(paths, settings)
        seconds = prepare_models(paths, settings, lambda what: console.print(f"preparing: {what}"))
        for file in sorted((paths.run_dir / "models").glob("*.json")):
            console.print(f"{file.stem}: {file.read_text()}", highlight=False)
    console.print(", ".join(f"{stage}: {spent:.1f} s" for stage, spent in seconds.items()), highlight=False)
