"""`opcod weights`: the versions of a run on disk, and whether they are what they were when they were published."""

from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from opcod.options import CACHE_DIR, RUNS_DIR, RunsDir, paths_for
from opcod.preparing import stored_settings
from opcod.versions import faults_of, versions_of
from shared.contracts.run import RunState
from shared.errors import ConfigError, StorageError

app = typer.Typer(help="The versions of a run.", no_args_is_help=True)

RunName = Annotated[str, typer.Argument(metavar="RUN", help="The run.")]
Student = Annotated[str | None, typer.Option("--student", help="a or b; default: both.")]


@app.callback()
def weights() -> None:
    """The versions of a run."""


@app.command("list")
def list_versions(run_name: RunName, student: Student = None, runs_dir: RunsDir = RUNS_DIR) -> None:
    """List them with size, parent and where they are needed."""
    run_dir, students = _run(runs_dir, run_name, student)
    needed = _needed(run_dir)
    table = Table("version", "parent", "bytes", "checksum", "needed as")
    for name in students:
        for version in versions_of(run_dir, name):
            size = sum(entry.bytes for entry in version.manifest.files)
            checksum, parent = version.manifest.checksum[:12], version.manifest.parent or "–"
            table.add_row(version.name, parent, f"{size:,}", checksum, needed.get(version.name, ""))
    Console().print(table)


@app.command("verify")
def verify(run_name: RunName, student: Student = None, runs_dir: RunsDir = RUNS_DIR) -> None:
    """Check every version: files, hashes, finite tensors, parent and batch. Exit code 74 if one is not what it was."""
    run_dir, students = _run(runs_dir, run_name, student)
    versions = [version for name in students for version in versions_of(run_dir, name)]
    wrong = [f"{version.name}: {fault}" for version in versions for fault in faults_of(run_dir, version)]
    if wrong:
        raise StorageError(
            "these versions are not what was published:\n  " + "\n  ".join(wrong) + "\n"
            f"`opcod replay {run_name} --student <student> --into <name>` makes them again from the sealed batches"
        )
    typer.echo(f"{len(versions)} versions are what was published")


def _run(runs_dir: Path, run_name: str, student: str | None) -> tuple[Path, list[str]]:
    paths = paths_for(runs_dir, run_name, CACHE_DIR)
    students = sorted(stored_settings(paths).students)
    if student is not None and student not in students:
        raise ConfigError(f"--student: expected one of {', '.join(students)}, got {student!r}")
    return paths.run_dir, [student] if student else students


def _needed(run_dir: Path) -> dict[str, str]:
    """What the run's state holds on to: a version may not be deleted while it is here."""
    file = run_dir / "state.json"
    if not file.exists():
        return {}
    try:
        state = RunState.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise StorageError(f"{file} does not fit this version of opcod: {error}") from error
    tutors = {phase.tutor_version: f"tutor in round {state.round}" for phase in state.phases}
    return tutors | dict.fromkeys(state.version.values(), "live")
