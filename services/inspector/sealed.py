"""Reading a sealed batch: the whole texts of the exchanges that events only tell cut.

What always holds: only files under the run's `batches` folder are read, never through a link, and only when
they are what the manifest and the event say.
"""

import hashlib
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import to_json

from services.inspector.records import Exchange, sealed_exchange
from shared.contracts.batches import BatchGroup, BatchManifest, BatchSample
from shared.contracts.events import BatchReady
from shared.contracts.ids import step_name
from shared.errors import StorageError


class SealedBatches:
    """The sealed batches of `run` under its directory."""

    def __init__(self, run_dir: Path, run: str) -> None:
        self._run_dir = run_dir.absolute()
        self._run = run

    def exchanges(self, ready: BatchReady) -> tuple[Exchange, ...]:
        """Every exchange of the batch that `ready` announces. Raises StorageError if it is not what it says."""
        folder = self._folder(ready.uri)
        try:
            manifest = BatchManifest.model_validate_json(_plain_file(folder / "manifest.json"))
            data = _plain_file(folder / "groups.jsonl")
            self._check(ready, manifest, data)
            groups = [BatchGroup.model_validate_json(line) for line in data.splitlines()]
        except (OSError, ValidationError) as error:
            raise StorageError(f"cannot read the sealed batch {ready.uri}: {error}") from error
        found = (sealed_exchange(manifest, group, sample, ready.at) for group in groups for sample in group.samples)
        return tuple(exchange for exchange in found if exchange is not None)

    def sample(self, student: str, step: int, problem_id: str, index: int) -> BatchSample | None:
        """One rollout as it was sealed; None if the batch does not have it. Raises StorageError without a batch."""
        uri = f"batches/{student}/{step_name(step)}"
        folder = self._folder(uri)
        try:
            lines = _plain_file(folder / "groups.jsonl").splitlines()
            start = b'{"problem_id":' + to_json(problem_id)
            groups = [BatchGroup.model_validate_json(line) for line in lines if line.startswith(start)]
        except (OSError, ValidationError) as error:
            raise StorageError(f"cannot read the sealed batch {uri}: {error}") from error
        samples = [sample for group in groups for sample in group.samples if sample.index == index]
        return samples[0] if samples else None

    def _folder(self, uri: str) -> Path:
        try:
            folder = (self._run_dir / uri).resolve(strict=True)
            root = self._run_dir.resolve(strict=True)
        except (OSError, ValueError) as error:
            raise StorageError(f"there is no sealed batch {uri!r} under {self._run_dir}: {error}") from error
        if not folder.is_relative_to(root / "batches") or folder != root / uri:
            raise StorageError(f"expected a batch under {root / 'batches'} without links, got {uri!r}: not read")
        return folder

    def _check(self, ready: BatchReady, manifest: BatchManifest, data: bytes) -> None:
        expected = (self._run, ready.student, ready.step)
        found = (manifest.run, manifest.student, manifest.step)
        if expected != found:
            raise StorageError(f"{ready.uri}: expected the batch of {expected}, its manifest says {found}")
        digest = hashlib.sha256(data).hexdigest()
        if digest != manifest.groups_sha256:
            raise StorageError(
                f"{ready.uri}/groups.jsonl: expected sha256 {manifest.groups_sha256}, got {digest}: not read"
            )


def _plain_file(path: Path) -> bytes:
    if path.is_symlink():
        raise StorageError(f"expected a file without links at {path}, got a link: not read")
    return path.read_bytes()
