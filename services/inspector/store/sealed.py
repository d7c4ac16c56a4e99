"""Reading a sealed batch: the whole texts of the exchanges that events only tell cut.

What always holds: only files under the run's `batches` folder are read, never through a link, and only when
they are what the manifest and the event say.
"""

from collections.abc import Iterator
from pathlib import Path

from services.inspector.store.records import StoredExchange, sealed_exchange
from shared.contracts.batches import BatchGroup, BatchManifest, BatchSample
from shared.contracts.events import BatchReady
from shared.errors import StorageError
from shared.files.batches import BATCHES, batch_directory, batch_manifest, read_group, read_groups, sealed_steps
from shared.files.store import GROUPS, LocalStore


class SealedBatches:
    """The sealed batches of `run` under its directory."""

    def __init__(self, run_dir: Path, run: str) -> None:
        self._store = LocalStore(run_dir)
        self._run = run

    def exchanges(self, ready: BatchReady) -> tuple[StoredExchange, ...]:
        """Every exchange of the batch that `ready` announces. Raises StorageError if it is not what it says."""
        return self._exchanges(ready.uri, ready.student, ready.step, ready.at)

    def exchanges_of(self, student: str, step: int, at: float) -> tuple[StoredExchange, ...]:
        """The same of a batch that lies there, told at `at`. Raises StorageError as `exchanges`."""
        return self._exchanges(batch_directory(student, step), student, step, at)

    def has(self, student: str, step: int) -> bool:
        """Whether the step's batch lies there, damaged or not."""
        return self._store.exists(batch_directory(student, step))

    def groups(self) -> Iterator[tuple[BatchManifest, BatchGroup]]:
        """Every group of every batch that lies there by now, by student and step. Raises StorageError as `exchanges`,
        and for all of these batches before the first group."""
        # No generator itself: what comes before a damaged batch would be on its way to somebody already.
        students = sorted(path.name for path in (self._store.root / BATCHES).glob("*"))
        verified = [self._verified(name, step) for name in students for step in sealed_steps(self._store.root, name)]
        return ((manifest, group) for manifest in verified for group in self._groups(manifest))

    def sample(self, student: str, step: int, problem_id: str, index: int) -> BatchSample:
        """One rollout as it was sealed. Raises StorageError if the batch is not what it says, or does not hold it."""
        for sample in self.group(student, step, problem_id).samples:
            if sample.index == index:
                return sample
        raise StorageError(f"{batch_directory(student, step)} holds no rollout {index} of problem {problem_id}")

    def group(self, student: str, step: int, problem_id: str) -> BatchGroup:
        """One problem's rollouts as they were sealed. Raises StorageError as `sample`."""
        return read_group(self._store, self._manifest(batch_directory(student, step), student, step), problem_id)

    def _exchanges(self, uri: str, student: str, step: int, at: float) -> tuple[StoredExchange, ...]:
        manifest = self._manifest(uri, student, step)
        groups = read_groups(self._store, uri, manifest)
        found = (sealed_exchange(manifest, group, sample, at) for group in groups for sample in group.samples)
        return tuple(exchange for exchange in found if exchange is not None)

    def _groups(self, manifest: BatchManifest) -> Iterator[BatchGroup]:
        return read_groups(self._store, batch_directory(manifest.student, manifest.step), manifest)

    def _verified(self, student: str, step: int) -> BatchManifest:
        directory = batch_directory(student, step)
        manifest = self._manifest(directory, student, step)
        self._store.open_verified(directory, GROUPS, manifest.groups_sha256)
        return manifest

    def _manifest(self, uri: str, student: str, step: int) -> BatchManifest:
        if not uri.startswith(f"{BATCHES}/"):
            raise StorageError(f"expected a batch such as {batch_directory(student, step)}, got {uri!r}: not read")
        raw = self._store.read_manifest(uri)
        return batch_manifest(raw, uri, run=self._run, student=student, step=step)
