"""Versions whose tensors may go, and letting them go.

What always holds: a pruned version keeps its manifest, so that its hash still tells what it was and `opcod replay` can
make it again; it is marked before a file is deleted, so that half of one is never taken for a whole one, and what was
marked and not finished is finished the next time.
"""

import contextlib
from collections.abc import Collection, Sequence
from pathlib import Path

from shared.contracts.ids import parse_version
from shared.contracts.run import RunState
from shared.files.durable import atomic_write
from shared.files.store import MANIFEST
from shared.results.figures import best_validated

PRUNED = "pruned"
"""The mark: an empty file beside the manifest."""


def retained(steps: Sequence[int], *, keep_last: int, keep_every: int, needed: Collection[int]) -> set[int]:
    """The steps of `steps` that stay. keep_last, keep_every: as in RetentionSection; needed: stay in any case."""
    if keep_last == 0:
        return set(steps)
    newest = set(sorted(steps)[-keep_last:])
    milestones = {step for step in steps if keep_every and step % keep_every == 0}
    return newest | milestones | (set(needed) & set(steps))


def needed_steps(state: RunState, student: str) -> dict[int, str]:
    """Steps of the versions that the run holds on to, and as what: best, revising, tutor, live."""
    needed: dict[int, str] = {}
    best = best_validated(state.scores, student)
    if best is not None:
        needed[parse_version(best.version)[1]] = "best validation score"
    for phase in state.phases:
        if phase.student == student:
            needed |= dict.fromkeys((parse_version(each.version)[1] for each in phase.open_revisions), "revising")
        if student in phase.tutors:
            needed[parse_version(phase.tutors[student])[1]] = f"tutor in round {state.round}"
    # Last, and so what is said of a version that is needed for several reasons.
    needed[parse_version(state.version[student])[1]] = "live"
    return needed


def versions_on_disk(run_dir: Path, student: str) -> dict[int, Path]:
    """Directory by step, of every published version that was not pruned."""
    return {step: path for step, path in _published(run_dir, student).items() if not is_pruned(path)}


def _published(run_dir: Path, student: str) -> dict[int, Path]:
    found = (run_dir / "weights" / student).glob("v*")
    return {int(p.name[1:]): p for p in found if p.name[1:].isdecimal() and (p / MANIFEST).is_file()}


def is_pruned(directory: Path) -> bool:
    return (directory / PRUNED).exists()


def prune(directory: Path) -> int:
    """Delete a version's files but for its manifest; the bytes that were freed. Somebody else may be at it, too."""
    if not is_pruned(directory):
        atomic_write(directory / PRUNED, b"")
    freed = 0
    for path in _tensor_files(directory):
        # The broker and `opcod weights prune` may be at it at once.
        with contextlib.suppress(FileNotFoundError):
            size = path.stat().st_size
            path.unlink()
            freed += size
    return freed


def _tensor_files(directory: Path) -> list[Path]:
    return [path for path in directory.iterdir() if path.name not in (MANIFEST, PRUNED) and path.is_file()]


def prune_versions(
    run_dir: Path, state: RunState, student: str, *, keep_last: int, keep_every: int, dry_run: bool = False
) -> dict[int, int]:
    """Prune what need not stay, and finish what was begun; freed (with `dry_run`: taken) bytes by step.

    Raises StorageError or OSError where the disk refuses.
    """
    published = _published(run_dir, student)
    whole = sorted(step for step, path in published.items() if not is_pruned(path))
    needed = needed_steps(state, student)
    stay = retained(whole, keep_last=keep_last, keep_every=keep_every, needed=needed)
    go = {step: path for step, path in sorted(published.items()) if step not in stay and _tensor_files(path)}
    if dry_run:
        return {step: sum(file.stat().st_size for file in _tensor_files(path)) for step, path in go.items()}
    return {step: prune(path) for step, path in go.items()}
