"""The published versions of a run on disk: what can be wrong with one, and going back to an earlier one.

Going back publishes a new version with the old tensors; nothing that was published is rewritten.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from opcod.installed import require_model_packages
from opcod.local.deployment import is_elsewhere, run_lock
from shared.bus.redis import RedisBus
from shared.config.environment import service_environment
from shared.contracts.ids import version_name, weights_uri
from shared.contracts.run import RunState, Status
from shared.contracts.weights import WeightsManifest
from shared.errors import ConfigError, OpcodError, StorageError, reason
from shared.files.batches import batch_directory
from shared.files.durable import sha256_file
from shared.files.retention import is_pruned
from shared.files.state import write_state_file
from shared.files.store import MANIFEST, Content, Linked, LocalStore


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
    # One that restores another was made of no batch.
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


def sound_version(
    run_dir: Path, versions: Sequence[VersionOnDisk], student: str, name: str, option: str
) -> VersionOnDisk:
    """The one of `versions`, a student's, that is called so, after it was checked. option: where it was named.

    Raises ConfigError if there is none or its tensors were pruned, StorageError if it is not what was published.
    """
    named = {version.name: version for version in versions}
    if name not in named:
        there = span(list(named)) if named else "none"
        raise ConfigError(f"{option}: expected a published version of student {student} ({there}), got {name!r}")
    found = named[name]
    if found.pruned:
        raise ConfigError(
            f"{option}: {name} was pruned; `opcod replay {found.manifest.run} --student {student} "
            f"--until {name.partition('@')[2]} --into <name>` makes its tensors again, in a run of their own"
        )
    if faults := list(faults_of(run_dir, found)):
        raise StorageError(f"{name} is not what was published: {'; '.join(faults)}")
    return found


def span(versions: Sequence[object]) -> str:
    """From the first to the last, of at least one, in order."""
    first, last = versions[0], versions[-1]
    return f"{first}" if first == last else f"{first} to {last}"


def roll_back(run_dir: Path, state: RunState, student: str, to: str) -> str:
    """Publish the tensors of `to` as the student's newest version, and make it the live one; returns its name.

    `state` is what `state.json` holds; the next broker takes the changed one up. Raises ConfigError if the run is up,
    not DONE, or has no such version, StorageError if that version is not what was published, UnavailableError if Redis
    cannot say whether a broker of another container is up.
    """
    if state.status is not Status.DONE:
        raise ConfigError(
            f"expected a run that is DONE, {state.run} is {state.status.value}: training goes on from the newest "
            f"version only. Let it end, or begin another run"
        )
    # The broker would write its own state over the changed one; while we hold the lock none is started here.
    with run_lock(run_dir):
        if is_elsewhere():
            _refuse_beside_a_broker(state.run)
        versions = versions_of(run_dir, student)
        # What is damaged must not be made the live version.
        source = sound_version(run_dir, versions, student, to, "--to")
        # Versions form one line: it follows the newest one, whichever it restores.
        step = max(version.manifest.step for version in versions) + 1
        name, parent = version_name(student, step), version_name(student, step - 1)
        # Everything else of the manifest is about the tensors, which are the same.
        changes = {"version": name, "parent": parent, "step": step, "batch_sha256": None, "restores": to}
        manifest = source.manifest.model_copy(update=changes)
        files: dict[str, Content] = {
            entry.name: Linked(run_dir / source.uri / entry.name, entry.sha256) for entry in manifest.files
        }
        LocalStore(run_dir).write_directory(weights_uri(student, step), files, manifest.model_dump_json().encode())
        live = {**state.version, student: name}
        write_state_file(run_dir, state.model_copy(update={"version": live, "revision": state.revision + 1}))
    return name


def _refuse_beside_a_broker(run: str) -> None:
    """Containers hold no lock; a broker that is up says so on Redis, and would write over what is changed here."""
    environment = service_environment()
    bus = RedisBus(environment.bus_url(), run)
    try:
        brokers = [beat for beat in bus.heartbeats() if beat.service == "broker"]
    finally:
        bus.close()
    if brokers:
        raise ConfigError(
            f"expected a run that is not up, the broker of {run} is: stop it (`docker-compose stop broker`; in a "
            "cluster scale it to 0), try again some seconds later, when its heartbeat is gone, and then start it"
        )
