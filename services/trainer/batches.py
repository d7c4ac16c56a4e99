"""Reading a sealed batch from disk, or a group that was sealed ahead of it.

What always holds: nothing of a batch is used before its manifest and its groups have the hashes they were sealed
with, and it is the batch of the run, student, step and base version that it is taken for.
"""

import hashlib
from dataclasses import dataclass

from pydantic import ValidationError

from shared.bus.payloads import unpack
from shared.contracts.batches import BatchGroup, BatchManifest, BatchSealed, GroupSealed
from shared.contracts.ids import version_name
from shared.errors import StorageError, reason, shown
from shared.files.batches import batch_directory, read_groups
from shared.files.store import GROUPS, LocalStore


@dataclass(frozen=True)
class Batch:
    """A verified batch; sha256 is that of its manifest."""

    manifest: BatchManifest
    groups: tuple[BatchGroup, ...]
    sha256: str

    @property
    def order(self) -> list[int] | None:
        """Positions of the groups in the order in which they are added up, where the batch has one."""
        if self.manifest.order is None:
            return None
        positions = {group.problem_id: position for position, group in enumerate(self.groups)}
        return [positions[added.problem_id] for added in self.manifest.order]


def read_manifest(store: LocalStore, sealed: BatchSealed, run: str) -> BatchManifest:
    """That of the batch that `sealed` names. Raises StorageError where it is missing, altered or not that batch."""
    raw = store.read_manifest(sealed.uri)
    digest = hashlib.sha256(raw).hexdigest()
    if digest != sealed.sha256:
        raise StorageError(
            f"expected the manifest of {sealed.uri} with sha256 {sealed.sha256}, got {digest}: it was changed "
            "after it was sealed; restore the file, then resume the run"
        )
    try:
        manifest = BatchManifest.model_validate_json(raw)
    except ValidationError as error:
        raise StorageError(f"the batch {sealed.uri} does not fit its schema: {reason(error)}") from error
    _check_identity(manifest, sealed, run)
    return manifest


def sealed_batch(store: LocalStore, student: str, step: int) -> BatchSealed:
    """What announces the batch of that step, of what lies on disk. Raises StorageError where it is none."""
    uri = batch_directory(student, step)
    raw = store.read_manifest(uri)
    try:
        manifest = BatchManifest.model_validate_json(raw)
    except ValidationError as error:
        raise StorageError(f"the batch {uri} does not fit its schema: {reason(error)}") from error
    return BatchSealed(
        student=student,
        step=manifest.step,
        uri=uri,
        sha256=hashlib.sha256(raw).hexdigest(),
        base_version=manifest.base_version,
    )


def read_batch(store: LocalStore, sealed: BatchSealed, run: str) -> Batch:
    """The batch that `sealed` names. Raises StorageError where it is missing, altered or not that batch."""
    # Before the groups are read: of a batch that is not ours they are of no use.
    manifest = read_manifest(store, sealed, run)
    groups = tuple(read_groups(store, sealed.uri, manifest))
    samples = sum(len(group.samples) for group in groups)
    if (len(groups), samples) != (manifest.groups, manifest.samples):
        raise StorageError(
            f"the manifest of {sealed.uri} says {manifest.groups} groups with {manifest.samples} samples, "
            f"{GROUPS} has {len(groups)} with {samples}"
        )
    if manifest.order is not None:
        ordered, found = sorted(a.problem_id for a in manifest.order), sorted(g.problem_id for g in groups)
        if ordered != found:
            raise StorageError(f"the order of {sealed.uri} has the groups {shown(ordered)}, {GROUPS} has {found}")
    return Batch(manifest, groups, sealed.sha256)


def read_group(sealed: GroupSealed, payload: bytes) -> BatchGroup:
    """The group that `sealed` announces. Raises StorageError or MalformedMessageError where `payload` is not that."""
    group = unpack(sealed.payload, payload, BatchGroup)
    found = (group.problem_id, hashlib.sha256(group.model_dump_json().encode()).hexdigest())
    if found != (sealed.group.problem_id, sealed.group.sha256):
        raise StorageError(f"expected the group {sealed.group} of step {sealed.step}, got {shown(found)}")
    return group


def _check_identity(manifest: BatchManifest, sealed: BatchSealed, run: str) -> None:
    expected = (run, sealed.student, sealed.step, version_name(sealed.student, sealed.step - 1))
    got = (manifest.run, manifest.student, manifest.step, manifest.base_version)
    if got != expected or sealed.base_version != manifest.base_version:
        raise StorageError(
            f"expected a batch of (run, student, step, base version) {expected} in {sealed.uri}, got {shown(got)}, "
            f"announced on {sealed.base_version}"
        )
