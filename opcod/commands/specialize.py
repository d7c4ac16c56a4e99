"""`opcod specialize`: fine-tune the students on their own domains, into the cache."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from opcod.local.progress import make_console, tell
from opcod.options import CACHE_DIR, CacheDir, ConfigFile, Overrides, Preset, absolute, paths_for, settings_from
from opcod.prepare.checks import check_settings, notes_before
from opcod.prepare.models import prepare_models
from opcod.prepare.run_directory import create_run
from shared.config.settings import RunSettings
from shared.contracts.models import MODELS, prepared_model
from shared.errors import ConfigError
from shared.files.text import expanded


def specialize(
    student: Annotated[
        str | None, typer.Option("--student", help="Only this one; default: all that have specialize = true.")
    ] = None,
    examples: Annotated[
        Path | None,
        typer.Option(
            "--examples", parser=expanded, metavar="PATH", help="JSONL file to fine-tune --student on (docs/data.md)."
        ),
    ] = None,
    preset: Preset = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    cache_dir: CacheDir = CACHE_DIR,
) -> None:
    """Fine-tune the specialists of a run ahead of time; the run then finds them in the cache.

    Example: `opcod specialize --preset laptop-bio-phys`
    """
    console = make_console()
    settings = _settings(student, examples, preset, config, overrides or [])
    # A run that nobody sees: only what lands in the cache is wanted of it.
    with tempfile.TemporaryDirectory(prefix="opcod-") as directory:
        paths = paths_for(Path(directory), "specialize", cache_dir)
        students = None if student is None else (student,)
        check_settings(paths, settings, takes_steps=False, students=students)
        for note in notes_before(paths, settings, students):
            tell(console, f"note: {note}")
        create_run(paths, settings)
        seconds = prepare_models(
            paths,
            settings,
            lambda what: tell(console, f"preparing: {what}"),
            students=students,
        )
        for file in sorted((paths.run_dir / MODELS).glob("*.json")):
            made = prepared_model(paths.run_dir, file.stem).model_dump_json(include={"path", "sha256"})
            console.print(f"{file.stem}: {made}", soft_wrap=True)
    console.print(", ".join(f"{stage}: {spent:.1f} s" for stage, spent in seconds.items()))


def _settings(
    student: str | None, examples: Path | None, preset: str | None, config: Path | None, overrides: list[str]
) -> RunSettings:
    """What is asked for, with the other students left as they are when one is named."""
    if student is None:
        if examples is not None:
            raise ConfigError("--examples: expected --student, too; each student has examples of its own")
        return settings_from(preset, config, overrides)
    named = settings_from(preset, config, overrides)
    named.require_student(student)
    chosen = [
        f"students.{student}.specialize=true",
        *(f"students.{peer}.specialize=false" for peer in named.peers_of(student)),
        *(f"students.{peer}.examples=none" for peer in named.peers_of(student)),
    ]
    if examples is not None:
        chosen.append(f"students.{student}.examples={absolute(examples)}")
    return settings_from(preset, config, [*overrides, *chosen])
