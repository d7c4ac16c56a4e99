"""From a version's name to tensors in the engine, trusting nothing on the way.

What always holds: only `<run>/weights/<student>/v<k>` is ever read, found by name alone; every file has the size that
the manifest names, and nothing else lies beside it; what an engine in this process then holds has the manifest's
checksum, and what another process is to read has its sha256. So each byte is hashed once. v0 is the base model and has
no directory.
"""

from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from services.student.engines.port import Engine, EngineAwayError
from shared.contracts.ids import parse_version, version_folder
from shared.contracts.weights import FileEntry, WeightsManifest
from shared.errors import OpcodError, StorageError, reason, shown
from shared.files.store import LocalStore, file_name, patiently

PROBE_TOLERANCE = 0.5
"""Measured: matching weights differ by less than 0.1, wrong ones by more than 1."""


class VersionRefusedError(OpcodError):
    """A version that cannot be served; what was loaded before is still there."""


class WeightLoader:
    """Loads versions of one student of one run. `weights` is the run's `weights/<student>` directory.

    base_model: sha256 that manifests must name as their base; None where the engine has no base.
    """

    def __init__(self, weights: Path, *, run: str, student: str, engine: Engine, base_model: str | None) -> None:
        self._weights = weights
        self._store = LocalStore(weights)
        self._run = run
        self._student = student
        self._engine = engine
        self._base_model = base_model

    def load(self, version: str) -> str:
        """Verify and load `version`; returns the checksum of the loaded tensors.

        Raises VersionRefusedError, and EngineAwayError if the engine is lost meanwhile.
        """
        try:
            steps = self._steps(version)
            if steps == 0:
                return self._engine.load(version, None)
            return self._load_verified(version, version_folder(steps))
        # EngineAwayError is an OpcodError too, but no fault of the version: it must not be counted as a refusal.
        except (VersionRefusedError, EngineAwayError):
            raise
        except (OpcodError, OSError) as error:
            raise VersionRefusedError(f"{version}: {type(error).__name__}: {error}") from error

    def _load_verified(self, version: str, name: str) -> str:
        manifest = self._manifest(version, name)
        # An engine in this process makes its own checksum of what it holds; vLLM, whose memory cannot be hashed, gives
        # back the manifest's, and is asked the probe.
        loaded = self._engine.load(version, self._weights / name, manifest.checksum)
        if loaded != manifest.checksum:
            self._engine.unload(version)
            raise VersionRefusedError(
                f"{version}: the loaded tensors have checksum {loaded}, the manifest names {manifest.checksum}: "
                f"another set of weights lies in {name}; publish it again"
            )
        self._check_probe(version, manifest.probe)
        return loaded

    def _check_probe(self, version: str, expected: tuple[float, ...]) -> None:
        """What the engine says of fixed texts is what the trainer's model said of them."""
        try:
            found = self._engine.probe(version, expected)
        except OpcodError:
            # Left there, it would be taken for one that was found right.
            with suppress(OpcodError):
                self._engine.unload(version)
            raise
        if found is None or not expected:
            return
        off = max(abs(one - other) for one, other in zip(found, expected, strict=True))
        # `not <=` and not `>`: NaN compares as False either way, and must be refused.
        if not off <= PROBE_TOLERANCE:
            self._engine.unload(version)
            raise VersionRefusedError(
                f"{version}: the engine gives the probe texts mean log-probs of {found}, the trainer's model gave them "
                f"{expected}; at most {PROBE_TOLERANCE} between them is rounding: does the engine have another model?"
            )

    def _manifest(self, version: str, name: str) -> WeightsManifest:
        """The manifest, after every file that it lists, and no other, was found as it says; of tensors that the engine
        hashes, as far as their size."""
        # Read once: what is checked below and what the hashes are compared with must be the same bytes.
        data = self._store.read_manifest(name)
        try:
            manifest = WeightsManifest.model_validate_json(data)
        except ValidationError as error:
            raise VersionRefusedError(f"{version}: its manifest does not fit the schema: {reason(error)}") from error
        expected = (self._run, self._student, version)
        found = (manifest.run, manifest.student, manifest.version)
        if found != expected:
            raise VersionRefusedError(f"{version}: expected the manifest of {expected}, found that of {shown(found)}")
        if self._base_model is not None and manifest.base_model != self._base_model:
            raise VersionRefusedError(
                f"{version} changes the base model {manifest.base_model}, this student has {self._base_model}: "
                "an adapter only fits the weights that it was trained on"
            )
        self._check_files(version, name, manifest.files)
        tensors = [entry.name for entry in manifest.files if entry.name.endswith(".safetensors")]
        self._store.verify(name, data, unread=tensors if self._engine.hashes else ())
        return manifest

    def _check_files(self, version: str, name: str, entries: tuple[FileEntry, ...]) -> None:
        """Kinds and sizes first: they cost nothing, and a pickle is not even opened."""
        listed = sorted(entry.name for entry in entries)
        wrong = [file for file in listed if not file.endswith((".safetensors", ".json", ".jinja"))]
        if wrong or not any(file.endswith(".safetensors") for file in listed):
            raise VersionRefusedError(
                f"{version}: expected .safetensors, .json and .jinja files only, got {shown(listed)}"
            )
        for entry in entries:
            path = self._weights / name / file_name(entry.name)
            found = patiently(path.stat).st_size
            if found != entry.bytes:
                raise StorageError(f"{path}: expected {entry.bytes} bytes, found {found}; publish it again")

    def _steps(self, version: str) -> int:
        try:
            student, steps = parse_version(version)
        except ValueError as error:
            raise VersionRefusedError(str(error)) from error
        if student != self._student:
            raise VersionRefusedError(f"{version} belongs to student {student!r}; this is {self._student!r}")
        return steps
