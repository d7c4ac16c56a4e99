"""How much disk a run needs at most, by what takes it, from its settings and the sizes of its models.

Nothing of a model is read but its config.json and the headers of its weights. A model whose sizes are not known is left
out.
"""

import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from opcod.planning.shapes import DTYPE_BYTES, KNOWN_SHAPES, ModelShape, read_shape, shapes_in
from shared.config.settings import Paths, RunSettings
from shared.contracts.models import prepared_model
from shared.errors import ConfigError
from shared.hub import cache_directory
from shared.modeling.directory import MODEL_CONFIG
from shared.modeling.embedded import EMBEDDED
from shared.results.grid import Grid, plain

SPARE_BYTES = 2_000_000_000
"""What a run wants free besides: logs, Redis' file, the inspector's database, and models whose sizes are not known."""

# Of a trained token in a batch: its id, its log-prob and its text in JSON; measured with the laptop preset.
BATCH_BYTES = 60
# The newest two whole ones and the one that is being written (services/trainer/checkpoint.py).
CHECKPOINTS = 3
# Bytes a parameter: masters and two moments in fp32, and with full weights what they were cast to besides.
TRAINED_STATE_BYTES = 12
TEACHER_BYTES = 4
# Specialists of one size differ by their small files, and by what a file of weights says of itself.
ALIKE = 0.02
# Beside the newest and each keep_every-th: best, tutor's, live, and the one that is being written.
NEEDED_VERSIONS = 4


@dataclass(frozen=True)
class DiskPart:
    """in_cache: below the cache directory, for other runs as well; else in the run's own."""

    name: str
    bytes: int
    in_cache: bool = False


def disk_parts(settings: RunSettings, shapes: Mapping[str, ModelShape]) -> list[DiskPart]:
    """shapes: of the students' models, as far as they are known."""
    parts = [DiskPart("batches", _batch_bytes(settings))]
    for student, shape in shapes.items():
        section = settings.students[student]
        full, dtype_bytes = settings.run.weights == "full", DTYPE_BYTES[section.dtype]
        lora = settings.lora
        trained = shape.parameters if full else shape.adapter_parameters(lora.rank, lora.first_layer)
        # Whole models, and adapters for vLLM, are served in the model's own dtype, other adapters in fp32.
        version = trained * (dtype_bytes if full or section.engine == "vllm" else 4)
        teacher = TEACHER_BYTES if settings.keeps_teacher else 0
        checkpoint = trained * (TRAINED_STATE_BYTES + teacher + (dtype_bytes if full else 0))
        parts.append(DiskPart(f"versions of {student}", kept_versions(settings) * version))
        parts.append(DiskPart(f"checkpoints of {student}", CHECKPOINTS * checkpoint))
    specialists, models = _specialist_bytes(settings, shapes), _model_bytes(settings, shapes)
    return [
        *parts,
        *(DiskPart(f"specialist of {student}", size, in_cache=True) for student, size in specialists.items()),
        *(DiskPart(f"model {model}", size, in_cache=True) for model, size in models.items()),
    ]


def _specialist_bytes(settings: RunSettings, shapes: Mapping[str, ModelShape]) -> dict[str, int]:
    """By student, of those that are fine-tuned first."""
    sections = {student: settings.students[student] for student in shapes}
    return {
        student: shapes[student].parameters * DTYPE_BYTES[section.dtype]
        for student, section in sections.items()
        if section.specialize
    }


def _model_bytes(settings: RunSettings, shapes: Mapping[str, ModelShape]) -> dict[str, int]:
    """By name, of models that are in no directory of the user's."""
    models = {settings.students[student].model: shape for student, shape in shapes.items()}
    return {model: shape.parameters * 2 for model, shape in models.items() if not Path(model).expanduser().is_dir()}


def kept_versions(settings: RunSettings) -> int:
    """How many versions of a student lie there at once, at most."""
    keep, steps = settings.retention, settings.run.rounds * settings.run.steps_per_round
    if keep.keep_last == 0:
        return steps
    milestones = steps // keep.keep_every if keep.keep_every else 0
    return min(steps, keep.keep_last + milestones + NEEDED_VERSIONS)


def shapes_of(settings: RunSettings) -> dict[str, ModelShape]:
    """By student, of the models that presets name and of those in directories here. Raises ModelError."""
    found = {}
    for student, section in settings.students.items():
        shape = KNOWN_SHAPES.get(section.model)
        directory = Path(section.model).expanduser()
        if shape is None and (directory / MODEL_CONFIG).is_file():
            shape = read_shape(directory)
        if shape is not None and section.engine != "scripted":
            found[student] = shape
    return found


def known_shapes(paths: Paths, settings: RunSettings) -> dict[str, ModelShape]:
    """As `shapes_of`, and of the models that a run was begun with. Raises ModelError."""
    return shapes_of(settings) | shapes_in(_begun_with(paths, settings))


@dataclass(frozen=True)
class DiskNeed:
    """bytes: what is to be free on one disk, on which these directories are, or will be. free: what is."""

    places: tuple[Path, ...]
    bytes: int
    free: int


def disk_needs(
    runs: Sequence[tuple[Paths, RunSettings]],
    shapes: Mapping[str, ModelShape] | None = None,
    *,
    takes_steps: bool = True,
) -> list[DiskNeed]:
    """By disk, for the rest of runs that share their directories: those of `resources.min_free_disk_bytes` under the
    runs, or with "auto" what their parts and SPARE_BYTES come to, less what is there already. Raises ModelError.

    shapes: by default those of the models that a run was begun with, and of the others what `shapes_of` knows.
    takes_steps: else only the models are made that it begins with, and under the runs nothing is asked for.
    """
    fixed, in_runs = 0, 0
    specialists: dict[tuple[int, str], int] = {}
    models: dict[str, int] = {}
    for paths, settings in runs:
        asked = settings.resources.min_free_disk_bytes
        if asked != "auto":
            fixed = max(fixed, asked)
            continue
        begun = _begun_with(paths, settings)
        known = known_shapes(paths, settings) if shapes is None else shapes
        parts = sum(part.bytes for part in disk_parts(settings, known) if not part.in_cache)
        in_runs += max(0, parts - held_bytes(paths.run_dir))
        lacking = {student: shape for student, shape in known.items() if student not in begun}
        models |= _model_bytes(settings, lacking)
        # Those of a seed are one, whatever the method.
        made = _specialist_bytes(settings, lacking)
        specialists |= {(settings.run.seed, student): size for student, size in made.items()}
    paths, settings = runs[0]
    spare = SPARE_BYTES if settings.resources.min_free_disk_bytes == "auto" else 0
    needed = {paths.runs_dir: max(fixed, in_runs + spare)} if takes_steps else {}
    _add(needed, paths.cache_dir, _lacking_bytes(list(specialists.values()), paths.cache_dir / "specialists"))
    for model, size in models.items():
        if not _is_here(model, paths.cache_dir):
            _add(needed, paths.cache_dir if model == EMBEDDED else cache_directory(), size)
    return _by_disk(needed)


def _add(needed: dict[Path, int], place: Path, size: int) -> None:
    needed[place] = needed.get(place, 0) + size


def _by_disk(needed: Mapping[Path, int]) -> list[DiskNeed]:
    disks: dict[int, list[Path]] = {}
    for place, size in needed.items():
        if size or not disks:
            disks.setdefault(_disk_of(place), []).append(place)
    return [
        DiskNeed(tuple(places), sum(needed[place] for place in places), free_under(places[0]))
        for places in disks.values()
    ]


def _lacking_bytes(wanted: list[int], kept_in: Path) -> int:
    """Of specialists of these sizes. Which ones the cache holds is only known once they are asked for, so one of a size
    is taken for the one that is wanted."""
    for kept in kept_in.iterdir() if kept_in.is_dir() else ():
        size = held_bytes(kept)
        alike = next((each for each in wanted if abs(each - size) <= ALIKE * each), None)
        if alike is not None:
            wanted.remove(alike)
    return sum(wanted)


def _is_here(model: str, cache_dir: Path) -> bool:
    """Or cannot be looked for, without the packages that would fetch it."""
    if find_spec("torch") is None:
        return True
    # Here and not above: torch takes seconds, and of a run that goes on nothing is looked for.
    from shared.modeling.resolving import find_model

    return find_model(model, cache_dir) is not None


def _begun_with(paths: Paths, settings: RunSettings) -> dict[str, Path]:
    models = {}
    for name in settings.names:
        with suppress(ConfigError):  # not prepared yet, or told where it is needed
            models[name] = prepared_model(paths.run_dir, name).path
    return {name: path for name, path in models.items() if (path / MODEL_CONFIG).is_file()}


def require_disk(
    paths: Paths, settings: RunSettings, shapes: Mapping[str, ModelShape] | None = None, *, takes_steps: bool = True
) -> None:
    """Raises ConfigError where less is free than a run needs, ModelError. shapes, takes_steps: as in `disk_needs`."""
    require_disk_of([(paths, settings)], shapes, takes_steps=takes_steps)


def require_disk_of(
    runs: Sequence[tuple[Paths, RunSettings]],
    shapes: Mapping[str, ModelShape] | None = None,
    *,
    takes_steps: bool = True,
) -> None:
    """As `require_disk`, for all of them together."""
    short = [need for need in disk_needs(runs, shapes, takes_steps=takes_steps) if need.free < need.bytes]
    if short:
        count = f" for {len(runs)} runs" if len(runs) > 1 else ""
        found = "; ".join(
            f"expected {need.bytes / 1e9:.1f} GB free under {' and '.join(map(str, need.places))}{count}, "
            f"found {need.free / 1e9:.1f} GB"
            for need in short
        )
        choices = _choices(runs[0][0], {place for need in short for place in need.places})
        raise ConfigError(
            f"{found}; `opcod run --dry-run` says what takes it; free some, {choices}or set "
            "resources.min_free_disk_bytes"
        )


def require_free(option: str, directory: Path, size: int) -> None:
    """Raises ConfigError where fewer than `size` bytes are free. option: where the directory was named."""
    free = free_under(directory)
    if free < size:
        raise ConfigError(
            f"{option}: expected {size / 1e9:.1f} GB free under {directory}, found {free / 1e9:.1f} GB; free some, or "
            "name a directory on another disk"
        )


def _choices(paths: Paths, places: Collection[Path]) -> str:
    """What leads elsewhere, of what is short."""
    known = {
        paths.runs_dir: "choose another --runs-dir, set retention.keep_last",
        paths.cache_dir: "choose another --cache-dir",
        cache_directory(): "set HF_HUB_CACHE to a directory with room",
    }
    return "".join(f"{choice}, " for place, choice in known.items() if place in places)


def free_under(directory: Path) -> int:
    """Free bytes where `directory` is, or will be."""
    return shutil.disk_usage(existing(directory)).free


def _disk_of(directory: Path) -> int:
    return existing(directory).stat().st_dev


def existing(path: Path) -> Path:
    """The path, or the nearest above it that exists."""
    return next(parent for parent in (path, *path.parents) if parent.exists())


def disk_grid(parts: Sequence[DiskPart]) -> Grid:
    """The parts and their sums, for the run's directory and for the cache."""
    rows = []
    for where, in_cache in (("the run's directory", False), ("the cache", True)):
        these = [part for part in parts if part.in_cache == in_cache]
        rows.append([where, "", _gb(sum(part.bytes for part in these))])
        rows += [["", part.name, _gb(part.bytes)] for part in these]
    return Grid("Disk, GB, at most", plain("in", "of which", "GB"), rows)


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f}"


def _batch_bytes(settings: RunSettings) -> int:
    steps = settings.run.rounds * settings.run.steps_per_round
    answers = settings.problems.per_step * settings.rollout.samples
    return len(settings.students) * steps * answers * settings.rollout.max_tokens * BATCH_BYTES


def held_bytes(directory: Path) -> int:
    """Of a directory that may be in use, so that files come and go meanwhile."""
    held = 0
    for parent, _, files in os.walk(directory):
        for file in files:
            with suppress(OSError):
                held += (Path(parent) / file).stat().st_size
    return held
