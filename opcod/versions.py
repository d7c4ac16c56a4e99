"""Published versions as they lie on disk, and what can be wrong with one."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from shared.blobs.local import LocalStore
from shared.contracts.ids import version_name
from shared.contracts.weights import WeightsManifest
from shared.errors import OpcodError, StorageError


@dataclass(frozen=True)
class VersionOnDisk:
    """uri: relative to the run's directory."""

    uri: str
    manifest: WeightsManifest

    @property
    def name(self) -> str:
        return self.manifest.version


def versions_of(run_dir: Path, student: str) -> list[VersionOnDisk]:
    """By step. Raises StorageError for a manifest that cannot be read."""
    store = LocalStore(run_dir)
    found: list[VersionOnDisk] = []
    for path in sorted((run_dir / "weights" / student).glob("v*")):
        uri = f"weights/{student}/{path.name}"
        try:
            found.append(VersionOnDisk(uri, WeightsManifest.model_validate_json(store.read_manifest(uri))))
        except ValidationError as error:
            raise StorageError(f"the manifest of {path} does not fit its schema: {error}") from error
    return found


def faults_of(run_dir: Path, version: VersionOnDisk) -> Iterator[str]:
    """Everything about a version that is not as it was published, in words."""
    manifest = version.manifest
    expected = version_name(manifest.student, manifest.step)
    if version.name != expected or version.uri != f"weights/{manifest.student}/v{manifest.step:06d}":
        yield f"lies in {version.uri}, but says it is {version.name} of step {manifest.step}"
    if manifest.parent != version_name(manifest.student, manifest.step - 1):
        yield f"names {manifest.parent} as its parent"
    from shared.modeling.adapters import checksum, load_adapter  # torch: only here

    store = LocalStore(run_dir)
    try:
        store.verify(version.uri, store.read_manifest(version.uri))
        tensors, _spec = load_adapter(run_dir / version.uri)
        if checksum(tensors) != manifest.checksum:
            yield "its tensors do not have the checksum of the manifest"
    except OpcodError as error:
        yield str(error)
    yield from _batch_faults(run_dir, manifest)


def _batch_faults(run_dir: Path, manifest: WeightsManifest) -> Iterator[str]:
    batch = run_dir / "batches" / manifest.student / f"s{manifest.step:05d}" / "manifest.json"
    if batch.exists() and hashlib.sha256(batch.read_bytes()).hexdigest() != manifest.batch_sha256:
        yield f"it was trained on another batch than the one in {batch.parent.name}"
