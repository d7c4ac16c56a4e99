"""Published versions as they lie on disk, and what can be wrong with one."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from opcod.installed import require_model_packages
from shared.contracts.ids import version_name, weights_uri
from shared.contracts.weights import WeightsManifest
from shared.errors import OpcodError, StorageError, reason
from shared.files.batches import batch_directory
from shared.files.durable import sha256_file
from shared.files.retention import is_pruned
from shared.files.store import MANIFEST, LocalStore


@dataclass(frozen=True)
class VersionOnDisk:
    """uri: relative to the run's directory. pruned: only the manifest is left (shared/files/retention.py)."""

    uri: str
    manifest: WeightsManifest
    pruned: bool

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
            manifest = WeightsManifest.model_validate_json(store.read_manifest(uri))
            found.append(VersionOnDisk(uri, manifest, is_pruned(path)))
        except ValidationError as error:
            raise StorageError(f"the manifest of {path} does not fit its schema: {reason(error)}") from error
    return found


def faults_of(run_dir: Path, version: VersionOnDisk) -> Iterator[str]:
    """Everything about a version that is not as it was published, in words. Raises ConfigError without torch."""
    manifest = version.manifest
    expected = version_name(manifest.student, manifest.step)
    if version.name != expected or version.uri != weights_uri(manifest.student, manifest.step):
        yield f"lies in {version.uri}, but says it is {version.name} of step {manifest.step}"
    if manifest.parent != version_name(manifest.student, manifest.step - 1):
        yield f"names {manifest.parent} as its parent"
    if not version.pruned:
        yield from _tensor_faults(run_dir, version)
    if manifest.restores is None:
        yield from _batch_faults(run_dir, manifest)


def _tensor_faults(run_dir: Path, version: VersionOnDisk) -> Iterator[str]:
    require_model_packages("checking tensors")
    from shared.modeling.versions import version_checksum

    store = LocalStore(run_dir)
    try:
        store.verify(version.uri, store.read_manifest(version.uri))
        if version_checksum(run_dir / version.uri, version.manifest) != version.manifest.checksum:
            yield "its tensors do not have the checksum of the manifest"
    except OpcodError as error:
        yield str(error)


def _batch_faults(run_dir: Path, manifest: WeightsManifest) -> Iterator[str]:
    batch = run_dir / batch_directory(manifest.student, manifest.step) / MANIFEST
    if batch.exists() and sha256_file(batch) != manifest.batch_sha256:
        yield f"it was trained on another batch than the one in {batch.parent.name}"
