"""Where a sealed batch lies, and reading it back.

What always holds: a manifest is only given where it is that of the batch that was asked for, and a group only where
the file has the sha256 that the manifest names.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from shared.contracts.batches import BatchGroup, BatchManifest
from shared.contracts.ids import step_name
from shared.errors import StorageError, reason, shown
from shared.files.store import GROUPS, LocalStore, patiently

BATCHES = "batches"


def batch_directory(student: str, step: int) -> str:
    """Relative to the run's directory."""
    return f"{BATCHES}/{student}/{step_name(step)}"


def sealed_steps(run_dir: Path, student: str) -> list[int]:
    """The steps of the batches that lie whole on disk, in order."""
    # A directory gets its name with the manifest in it; what has none was never sealed.
    found = LocalStore(run_dir).members(f"{BATCHES}/{student}")
    return sorted(int(name[1:]) for name in found if name[:1] == "s" and name[1:].isdecimal())


def batch_manifest(raw: bytes, directory: str, *, run: str, student: str, step: int) -> BatchManifest:
    """Raises StorageError if it is none, or that of another batch."""
    try:
        manifest = BatchManifest.model_validate_json(raw)
    except ValidationError as error:
        raise StorageError(f"cannot read the manifest of the sealed batch {directory}: {reason(error)}") from error
    # Copied or renamed by hand, it would be trained as a step that it is not.
    if (manifest.run, manifest.student, manifest.step) != (run, student, step):
        raise StorageError(
            f"expected the batch of {run}/{student} step {step} in {directory}, its manifest says that it belongs to "
            f"{shown(f'{manifest.run}/{manifest.student}')} step {shown(manifest.step)}"
        )
    return manifest


def read_groups(store: LocalStore, directory: str, manifest: BatchManifest) -> Iterator[BatchGroup]:
    """All groups, verified before the first. Raises StorageError."""
    try:
        path, at = store.open_verified(directory, GROUPS, manifest.groups_sha256), 0
        while line := patiently(partial(_line, path, at)):
            yield BatchGroup.model_validate_json(line)
            at += len(line)
    except (OSError, ValidationError) as error:
        raise StorageError(f"cannot read the sealed batch {directory}: {reason(error)}") from error


def _line(path: Path, at: int) -> bytes:
    """The line that begins at byte `at`; empty at the end. Raises OSError."""
    # Opened for each, since a handle that went stale stays so. A group has tens of kilobytes.
    with path.open("rb") as file:
        file.seek(at)
        return file.readline()


def read_group(store: LocalStore, manifest: BatchManifest, problem_id: str) -> BatchGroup:
    """One group of a sealed batch. Raises StorageError if the batch does not hold it."""
    directory = batch_directory(manifest.student, manifest.step)
    # As far as the one that is wanted: the whole file was verified before the first.
    for group in read_groups(store, directory, manifest):
        if group.problem_id == problem_id:
            return group
    raise StorageError(f"{directory} holds no group of problem {problem_id}")
