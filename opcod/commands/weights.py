"""`opcod weights`: the versions of a run on disk: are they what was published, which may go, which is live."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from opcod.local.progress import make_console
from opcod.options import CACHE_DIR, RUNS_DIR, RunsDir, paths_for
from opcod.prepare.run_directory import stored_settings
from opcod.report.writing import state_of
from opcod.weights import faults_of, roll_back, versions_of
from shared.contracts.run import STATE_FILE
from shared.errors import StorageError
from shared.files.retention import needed_steps, prune_versions

app = typer.Typer(no_args_is_help=True)

RunName = Annotated[str, typer.Argument(metavar="RUN", help="The run.")]
Student = Annotated[str | None, typer.Option("--student", help="Only this one; default: all.")]


@app.callback()
def weights() -> None:
    """The versions of a run's students: list, verify, prune, roll back."""


@app.command("list")
def list_versions(run_name: RunName, student: Student = None, runs_dir: RunsDir = RUNS_DIR) -> None:
    """List the versions: size, parent, and what needs them."""
    run_dir, students = _run(runs_dir, run_name, student)
    table = Table("version", "parent", "bytes", "checksum", "needed as")
    for name in students:
        needed = _needed(run_dir, name)
        for version in versions_of(run_dir, name):
            manifest = version.manifest
            size = "pruned" if version.pruned else f"{sum(entry.bytes for entry in manifest.files):,}"
            use = needed.get(manifest.step, "")
            note = f"restores {manifest.restores}" if manifest.restores else ""
            table.add_row(version.name, manifest.parent or "–", size, manifest.checksum[:12], use or note)
    make_console().print(table)


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


@app.command("prune")
def prune(
    run_name: RunName,
    keep_last: Annotated[int, typer.Option("--keep-last", min=2, help="Newest versions of each student that stay.")],
    keep_every: Annotated[
        int, typer.Option("--keep-every", min=0, help="Also versions whose step this divides; 0: none.")
    ] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be deleted; delete nothing.")] = False,
    student: Student = None,
    runs_dir: RunsDir = RUNS_DIR,
) -> None:
    """Delete the tensors of old versions; manifests stay. The live, best and tutoring versions are never touched."""
    run_dir, students = _run(runs_dir, run_name, student)
    state = state_of(run_dir)
    for name in students:
        gone = prune_versions(run_dir, state, name, keep_last=keep_last, keep_every=keep_every, dry_run=dry_run)
        steps = ", ".join(f"v{step}" for step in gone) or "none"
        typer.echo(f"student {name}: {'would prune' if dry_run else 'pruned'} {steps} ({sum(gone.values()):,} bytes)")


@app.command("rollback")
def rollback(
    run_name: RunName,
    student: Annotated[str, typer.Option("--student", help="The student.")],
    to: Annotated[str, typer.Option("--to", help="v7: the version to go back to.")],
    runs_dir: RunsDir = RUNS_DIR,
) -> None:
    """Go back: make an earlier version's tensors live, as a new version. The run must be DONE and not up."""
    run_dir, _ = _run(runs_dir, run_name, student)
    # `v7` alone is enough, since --student names whose it is.
    version = to if "@" in to else f"{student}@{to}"
    name = roll_back(run_dir, state_of(run_dir), student, version)
    typer.echo(f"{name} holds the tensors of {version} and is live: `opcod up {run_name}` serves it")


def _run(runs_dir: Path, run_name: str, student: str | None) -> tuple[Path, list[str]]:
    paths = paths_for(runs_dir, run_name, CACHE_DIR)
    settings = stored_settings(paths)
    return paths.run_dir, [settings.require_student(student)] if student else list(settings.names)


def _needed(run_dir: Path, student: str) -> dict[int, str]:
    """What the run holds on to, by step; nothing for one whose broker has not begun."""
    return needed_steps(state_of(run_dir), student) if (run_dir / STATE_FILE).exists() else {}
