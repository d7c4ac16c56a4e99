"""Writing an export: the model or the adapter, its card, its licence and the run's settings, all of it or nothing."""

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from opcod.export.card import Exported, Record, render
from opcod.planning.disk import held_bytes, known_shapes, require_free
from opcod.planning.shapes import DTYPE_BYTES
from opcod.prepare.checks import check_directory
from opcod.prepare.run_directory import stored_settings
from opcod.report.writing import current_report, state_of
from opcod.weights import VersionOnDisk, sound_version, versions_of
from shared.config.loading import to_toml
from shared.config.settings import Paths
from shared.contracts.ids import version_name
from shared.contracts.models import prepared_model
from shared.contracts.run import RunState
from shared.errors import ConfigError
from shared.files.durable import new_directory
from shared.modeling.checksums import file_checksum
from shared.modeling.exporting import Release, write_adapter, write_model
from shared.modeling.origins import Origin, origin_of
from shared.modeling.resolving import directory_of, is_on_the_hub
from shared.problems.pinned import read_manifest

CARD = "README.md"
SETTINGS = "opcod.toml"
BASE = "base"


@dataclass(frozen=True)
class Wanted:
    """What is to be exported, checked. published: None is the model that the run began with. names: of every version
    with these tensors. merge: one model, or else the adapter beside its base. repository: where it goes then."""

    student: str
    version: str
    published: VersionOnDisk | None
    names: frozenset[str]
    merge: bool
    repository: str | None


def choose(paths: Paths, student: str, version: str | None, *, merge: bool, repository: str | None) -> Wanted:
    """By default the version that the run hands on. Raises ConfigError for what is not there or cannot be exported so,
    StorageError for a version that is not what was published."""
    settings, state = stored_settings(paths), state_of(paths.run_dir)
    if student not in settings.students:
        raise ConfigError(f"--student: expected one of {', '.join(sorted(settings.students))}, got {student!r}")
    if settings.students[student].engine == "scripted":
        raise ConfigError(f"student {student} of {paths.run} answers from a script: there is no model to export")
    name = _named(version, student) if version else _handed_on(state, student)
    versions = versions_of(paths.run_dir, student)
    base = name == version_name(student, 0)
    published = None if base else sound_version(paths.run_dir, versions, student, name, "--version")
    if not merge and (published is None or published.manifest.kind != "lora"):
        raise ConfigError(f"--adapter: expected a version that is an adapter, {name} is a whole model; leave it out")
    if not merge and repository and not _is_named_by_hub(paths, student):
        raise ConfigError(
            f"--adapter: with --push its base must be on the hub, and that of student {student} was made on this "
            "machine; push one merged model"
        )
    same = {each.name for each in versions if published and each.manifest.checksum == published.manifest.checksum}
    return Wanted(student, name, published, frozenset(same or {name}), merge, repository)


def _named(version: str, student: str) -> str:
    # `v7` alone is enough, since --student names whose it is.
    return version if "@" in version else f"{student}@{version}"


def _handed_on(state: RunState, student: str) -> str:
    name = state.version[student]
    if name == version_name(student, 0):
        raise ConfigError(
            f"expected a run that has trained student {student}, {state.run} is {state.status.value} and has not yet; "
            "wait for its first step, or export what it began with: --version v0"
        )
    return name


def _is_named_by_hub(paths: Paths, student: str) -> bool:
    """Whether the weights that training began with are a model of the hub's as it is."""
    name = stored_settings(paths).students[student].model
    return is_on_the_hub(name) and prepared_model(paths.run_dir, student).path == directory_of(name)


def require_new(target: Path) -> None:
    """Raises ConfigError unless it can be made: nothing is there, or an empty directory that nobody stands in, and its
    parent takes new ones, as it appears there whole."""
    if os.path.ismount(target):
        raise ConfigError(f"expected a directory that can be made anew, {target} is a mount point: name one below it")
    empty = target.is_dir() and not any(target.iterdir()) and target != Path.cwd()
    if not empty and (target.exists() or target.is_symlink()):
        raise ConfigError(f"expected a directory that is new or empty, {target} is not: name another one")
    check_directory("DIR", target.parent)


def require_room(paths: Paths, wanted: Wanted, target: Path) -> None:
    """Raises ConfigError where the disk of `target` has too little; of a model of unknown size nothing is asked."""
    settings, published = stored_settings(paths), wanted.published
    shape = known_shapes(paths, settings).get(wanted.student)
    dtype = settings.students[wanted.student].dtype
    model = 0 if shape is None else shape.parameters * DTYPE_BYTES[dtype]
    adapter = 0 if wanted.merge or published is None else held_bytes(paths.run_dir / published.uri)
    with_model = wanted.merge or not _is_named_by_hub(paths, wanted.student)
    require_free("DIR", target.parent, adapter + (model if with_model else 0))


def write(paths: Paths, wanted: Wanted, target: Path) -> None:
    """The export at `target`. The student's model is prepared. Raises ModelError, StorageError."""
    settings = stored_settings(paths)
    section, base = settings.students[wanted.student], prepared_model(paths.run_dir, wanted.student)
    published = wanted.published
    release = Release(
        base.path,
        (paths.run_dir / published.uri, published.manifest) if published else None,
        section.dtype,
        section.chat_template,
        settings.evaluation.sampling,
    )
    origin = origin_of(section.model)
    state, report = state_of(paths.run_dir), current_report(paths)
    adapter_of = (
        None if wanted.merge else (section.model if _is_named_by_hub(paths, wanted.student) else str(target / BASE))
    )
    exported = Exported(
        student=wanted.student,
        version=wanted.version,
        names=wanted.names,
        checksum=published.manifest.checksum if published else file_checksum(*sorted(base.path.glob("*.safetensors"))),
        base=base,
        origin=origin,
        adapter_of=adapter_of,
        repository=wanted.repository,
    )
    with new_directory(target) as directory:
        if adapter_of is None:
            exported = replace(exported, rounding=write_model(release, directory))
        else:
            write_adapter(release, directory, adapter_of)
            if adapter_of == str(target / BASE):
                (directory / BASE).mkdir()
                write_model(replace(release, published=None), directory / BASE)
        card = render(Record(settings, state, report, read_manifest(paths.run_dir)), exported)
        _write_beside(directory, card, to_toml(settings), origin)


def _write_beside(directory: Path, card: str, settings: str, origin: Origin) -> None:
    (directory / CARD).write_text(card, encoding="utf-8")
    (directory / SETTINGS).write_text(settings, encoding="utf-8")
    for file in origin.files:
        shutil.copyfile(file, directory / file.name)
