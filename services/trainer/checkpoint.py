"""Checkpoints: `checkpoints/<student>/k000017/`, written when step 17 is applied.

What always holds: a checkpoint is complete or absent; its files have the sha256 that its manifest names; and the
newest one decides which steps are applied. A whole one holds everything that training needs to go on; another one
needs the batches since the last whole one. It holds no generator's state, since nothing in a step is drawn. Where
weights are shared out over ranks, each has files of its own rows in it, and any number of ranks can go on from them.

It also holds what is published from it: the version's files as they are, its manifest, and the report of every step
so far, so that announcing again says the same.

`publish` makes of a checkpoint the version that students load. Order: checkpoint, then the version's files, then the
announcement. The checkpoint is the one point from which a step counts as applied. A process killed
- before it: nothing of the step is visible; it is made again from the checkpoint before, and, since training is
  deterministic on one machine, comes out the same;
- after it, before the files: they are written from the checkpoint, byte for byte, and nothing is trained again;
- after the files, before the announcement: the directory exists, is verified and adopted;
- after the announcement, before the message is acknowledged: it is announced again; the head does not move, and
  the broker knows the report by its key.
Files before checkpoint would leave a version without the state that made it: were it made again on another machine
or thread count, its bytes would differ from those under its name, which is immutable.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import structlog
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from torch import Tensor

from services.trainer.model.learner import LearnerState
from services.trainer.model.rowshares import own_rows
from shared.contracts.ids import weights_uri
from shared.contracts.messages import Contract
from shared.contracts.weights import FileEntry, StepDone, WeightsManifest, WeightsPublished
from shared.errors import FencedError, ModelError, ReadError, StorageError, reason
from shared.files.store import MANIFEST, Content, Linked, LocalStore
from shared.modeling.tensorfiles import read_tensors, write_tensors
from shared.modeling.versions import version_tensors
from shared.obs.faults import fault_point

# One more than is needed: the newest may turn out broken.
KEPT = 2
EXACT_FILE = "exact.safetensors"
TEACHER_FILE = "teacher.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
OPTIMIZER_FILES = "optimizer*.safetensors"
BROKEN_SUFFIX = ".broken"

log = structlog.get_logger()


class CheckpointManifest(Contract):
    """token: the fencing token it was written under. done: the reports of steps 1 to `step`, in order. shards: over how
    many ranks the rows of its state are shared out.
    """

    run: str
    student: str
    step: int = Field(ge=1)
    token: int
    base_sha256: str
    phase_updates: int
    skipped_in_row: int
    weights: WeightsManifest
    done: tuple[StepDone, ...]
    files: tuple[FileEntry, ...]
    shards: int = Field(default=1, ge=1)

    @property
    def name(self) -> str:
        return directory_name(self.student, self.step)

    @property
    def whole(self) -> bool:
        # Whole ones alone have an optimizer (`state_files`), and the first shard is there for any number of ranks.
        return any(entry.name == shard_name(OPTIMIZER_FILE, 0, self.shards) for entry in self.files)


def directory_name(student: str, step: int) -> str:
    return f"checkpoints/{student}/k{step:06d}"


def shard_name(file: str, rank: int, shards: int) -> str:
    """Of the part of `file` that a rank writes."""
    stem, _, suffix = file.partition(".")
    return file if shards == 1 else f"{stem}-{rank + 1:05d}-of-{shards:05d}.{suffix}"


class Checkpoints:
    """The checkpoints of one student of one run."""

    def __init__(self, store: LocalStore, *, run: str, student: str, base_sha256: str) -> None:
        self._store = store
        self._run = run
        self._student = student
        self._base_sha256 = base_sha256
        self._folder = f"checkpoints/{student}"
        self._root = store.root / self._folder

    def newest(self) -> CheckpointManifest | None:
        """The newest whole checkpoint, None for a new run. A broken one is renamed and the one before it taken.

        Raises ReadError, and renames nothing more, where the system would not read; StorageError, each time anew, if
        there is none left of a run that has begun; ModelError if it belongs to another run or base model.
        """
        # Newest first; a broken one is renamed, so that its step can be written again under its own name.
        for step in reversed(self._steps()):
            name = directory_name(self._student, step)
            try:
                manifest = self._verified(step)
            except ReadError:
                raise
            except StorageError as error:
                log.error("checkpoint broken, going back", checkpoint=name, error=str(error))
                self._set_aside(self._store.root / name)
                continue
            self._check_owner(manifest)
            return manifest
        self._check_new()
        return None

    def _check_new(self) -> None:
        """Raises StorageError if the run has begun: from step 0 it would write other versions under the same names."""
        broken = [name for name in self._store.members(self._folder) if name.endswith(BROKEN_SUFFIX)]
        versions = self._store.members(f"weights/{self._student}")
        if broken or versions:
            raise StorageError(
                f"every checkpoint in {self._root} is broken (renamed to *{BROKEN_SUFFIX}) or gone, and the run has "
                f"begun (found {', '.join((*broken, *versions[-1:]))}): restore one of them, or start a new run"
            )

    def _verified(self, step: int) -> CheckpointManifest:
        """Raises StorageError."""
        name = directory_name(self._student, step)
        manifest = self.read(step)
        self._store.verify(name, self._store.read_manifest(name))
        return manifest

    def whole_steps(self, limit: int) -> list[int]:
        """Of the whole checkpoints up to step `limit`, the newest first. Raises ReadError."""
        return [each.step for each in reversed(self._readable()) if each.whole and each.step <= limit]

    def published(self, manifest: CheckpointManifest) -> Mapping[str, Tensor]:
        """The tensors of its version. Raises StorageError or ModelError."""
        return version_tensors(self._store.root / manifest.name, manifest.weights)

    def load(self, manifest: CheckpointManifest, rank: int = 0, ranks: int = 1) -> LearnerState:
        """The state in a whole checkpoint, of what is shared out the rows of rank `rank` of `ranks`.

        Raises StorageError or ModelError where a file is not what it should be.
        """
        paths = {
            entry.name: self._store.open_verified(manifest.name, entry.name, entry.sha256) for entry in manifest.files
        }
        try:
            published = self.published(manifest)
            exact, teacher, optimizer = (
                _rows({name: paths[name] for name in names if name in paths}, names, rank, ranks)
                for names in (
                    [shard_name(file, shard, manifest.shards) for shard in range(manifest.shards)]
                    for file in (EXACT_FILE, TEACHER_FILE, OPTIMIZER_FILE)
                )
            )
        except (SafetensorError, KeyError, OSError) as error:
            raise StorageError(f"cannot load the checkpoint {manifest.name}: {error}") from error
        return LearnerState(published, exact, teacher, optimizer, manifest.phase_updates, manifest.skipped_in_row)

    def commit(
        self,
        state: LearnerState,
        *,
        token: int,
        weights: WeightsManifest,
        files: Mapping[str, Content],
        done: tuple[StepDone, ...],
        shards: int = 1,
        beside: Callable[[Path], Sequence[FileEntry]] = lambda _: (),
    ) -> CheckpointManifest:
        """Write the checkpoint of step `weights.step`; from here on that step is applied.

        files: those of its version, which `weights` lists once they are written. shards, beside: over how many ranks
        the state is shared out, of which `state` is that of rank 0, and what has the others write theirs.
        Raises FencedError if a checkpoint on disk was written under a higher token, StorageError if it cannot be
        written. Then no older checkpoint is touched.
        """
        # The lease was confirmed a moment ago; the disk has the last word, since it does not lose what Redis may.
        highest = self.highest_token()
        if highest > token:
            raise FencedError(
                f"the checkpoints of student {self._student} carry fencing token {highest}, this trainer holds "
                f"{token}: another trainer went on; this one must stop"
            )
        content = {**files, **state_files(state, 0, shards)}

        def manifest(entries: tuple[FileEntry, ...]) -> bytes:
            fault_point("trainer.mid-checkpoint")
            published = tuple(entry for entry in entries if entry.name in files)
            return (
                CheckpointManifest(
                    run=self._run,
                    student=self._student,
                    step=weights.step,
                    token=token,
                    base_sha256=self._base_sha256,
                    phase_updates=state.phase_updates,
                    skipped_in_row=state.skipped_in_row,
                    weights=weights.model_copy(update={"files": published}),
                    done=done,
                    files=entries,
                    shards=shards,
                )
                .model_dump_json()
                .encode()
            )

        self._store.write_directory(directory_name(self._student, weights.step), content, manifest, beside)
        fault_point("trainer.after-checkpoint")
        self._prune()
        # Read back, not kept from memory: if another trainer wrote it first, its report is the one that counts.
        return self.read(weights.step)

    def highest_token(self) -> int:
        """The highest fencing token that any checkpoint was written under, 0 if there is none. Raises ReadError: of one
        that the system would not read nobody knows the token."""
        return max((manifest.token for manifest in self._readable()), default=0)

    def version_files(self, manifest: CheckpointManifest) -> dict[str, Content]:
        """The files of its version, which it shares: neither is ever written again. They were hashed as they were
        written, or by `newest`."""
        directory = self._store.root / manifest.name
        return {entry.name: Linked(directory / entry.name, entry.sha256) for entry in manifest.weights.files}

    def _readable(self) -> list[CheckpointManifest]:
        found: list[CheckpointManifest] = []
        for step in self._steps():
            try:
                found.append(self.read(step))
            except ReadError:
                raise
            except StorageError as error:
                log.warning("checkpoint without a usable manifest", step=step, error=str(error))
        return found

    def read(self, step: int) -> CheckpointManifest:
        """The manifest of the checkpoint of `step`. Raises StorageError."""
        raw = self._store.read_manifest(directory_name(self._student, step))
        try:
            return CheckpointManifest.model_validate_json(raw)
        except ValidationError as error:
            raise StorageError(
                f"the manifest of checkpoint {step} of student {self._student} does not fit its schema: {reason(error)}"
            ) from error

    def _check_owner(self, manifest: CheckpointManifest) -> None:
        expected = (self._run, self._student, self._base_sha256)
        found = (manifest.run, manifest.student, manifest.base_sha256)
        if found != expected:
            raise ModelError(
                f"expected checkpoints of (run, student, base model) {expected} in {self._root}, found {found}: "
                "a run goes on with the model it was begun with"
            )

    def _steps(self) -> list[int]:
        """Steps with a manifest, ascending; a directory without one is a checkpoint half deleted."""
        found = self._store.members(self._folder)
        return sorted(int(name[1:]) for name in found if name[:1] == "k" and name[1:].isdecimal())

    def _prune(self) -> None:
        """Delete all but the newest KEPT, and the newest KEPT whole ones; the manifest goes first, so that no half of
        one is ever taken for it."""
        steps = self._steps()
        # The newest whole one is where a repeat begins, however many others came since.
        whole = [step for step in steps if list((self._root / f"k{step:06d}").glob(OPTIMIZER_FILES))]
        kept = {f"k{step:06d}" for step in (*steps[-KEPT:], *whole[-KEPT:])}
        for path in self._root.glob("k*"):
            if path.name not in kept and path.name[1:].isdecimal():
                (path / MANIFEST).unlink(missing_ok=True)
                shutil.rmtree(path, ignore_errors=True)

    def _set_aside(self, path: Path) -> None:
        target = path.with_name(path.name + BROKEN_SUFFIX)
        shutil.rmtree(target, ignore_errors=True)
        path.rename(target)


def state_files(state: LearnerState, rank: int, shards: int) -> dict[str, Content]:
    """What a rank writes into a whole checkpoint beside its version; of a state that is not whole, nothing."""
    parts = {TEACHER_FILE: state.teacher, OPTIMIZER_FILE: state.optimizer, EXACT_FILE: state.exact}
    # Before the first update that was made it is empty, and tells a whole one all the same.
    needed = {OPTIMIZER_FILE} if state.whole else set()
    return {
        shard_name(name, rank, shards): partial(write_tensors, part)
        for name, part in parts.items()
        if part or name in needed
    }


def _rows(paths: Mapping[str, Path], names: Sequence[str], rank: int, ranks: int) -> dict[str, Tensor]:
    """The tensors of a file, which may lie in shards; of none where there is no shard at all. Raises KeyError."""
    if not paths:
        return {}
    # Mapped, not read: of a shard that holds none of our rows nothing is.
    shards = [read_tensors(paths[name]) for name in names]
    return {name: own_rows([shard[name] for shard in shards], rank, ranks) for name in shards[0]}


def publish(store: LocalStore, checkpoints: Checkpoints, checkpoint: CheckpointManifest) -> WeightsPublished:
    """Write the version of a checkpoint, or adopt it where it exists; what is to be announced.

    Raises StorageError if it cannot be written, or exists with other content.
    """
    uri = weights_uri(checkpoint.student, checkpoint.step)
    files = checkpoints.version_files(checkpoint)
    fault_point("trainer.before-publish")
    sha256 = store.write_directory(uri, files, checkpoint.weights.model_dump_json().encode())
    fault_point("trainer.after-publish")
    return WeightsPublished(
        student=checkpoint.student,
        version=checkpoint.weights.version,
        step=checkpoint.step,
        uri=uri,
        manifest_sha256=sha256,
    )
