"""How much disk a run needs at most, by what takes it, from its settings and the sizes of its models.

Nothing of a model is read but its config.json and the headers of its weights. A model whose sizes are not known is left
out.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from opcod.planning.shapes import DTYPE_BYTES, KNOWN_SHAPES, ModelShape, read_shape, shapes_in
from shared.config.settings import Paths, RunSettings
from shared.contracts.models import prepared_model
from shared.errors import ConfigError
from shared.modeling.directory import MODEL_CONFIG
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
        if section.specialize:
            parts.append(DiskPart(f"specialist of {student}", shape.parameters * dtype_bytes, in_cache=True))
    models = {settings.students[student].model: shape for student, shape in shapes.items()}
    downloads = {model: shape for model, shape in models.items() if not Path(model).expanduser().is_dir()}
    return [
        *parts,
        *(DiskPart(f"model {model}", shape.parameters * 2, in_cache=True) for model, shape in downloads.items()),
    ]


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


def free_disk_needed(paths: Paths, settings: RunSettings, shapes: Mapping[str, ModelShape] | None = None) -> int:
    """Bytes that are to be free for the rest of a run: those of `resources.min_free_disk_bytes`, or with "auto" what
    its parts and SPARE_BYTES come to, less what is there already. Raises ModelError.

    shapes: by default those of the models that the run was begun with, and of the others what `shapes_of` knows.
    """
    fixed = settings.resources.min_free_disk_bytes
    if fixed != "auto":
        return fixed
    known = shapes_of(settings) | _begun_with(paths, settings) if shapes is None else shapes
    parts = disk_parts(settings, known)
    in_run = sum(part.bytes for part in parts if not part.in_cache)
    # Not the cache's: which specialists it holds already is only known once they are asked for.
    return SPARE_BYTES + max(0, in_run - _held_bytes(paths.run_dir))


def _begun_with(paths: Paths, settings: RunSettings) -> dict[str, ModelShape]:
    models = {}
    for name in settings.names:
        with suppress(ConfigError):  # not prepared yet, or told where it is needed
            models[name] = prepared_model(paths.run_dir, name).path
    return shapes_in({name: path for name, path in models.items() if (path / MODEL_CONFIG).is_file()})


def require_disk(paths: Paths, settings: RunSettings, shapes: Mapping[str, ModelShape] | None = None) -> None:
    """Raises ConfigError where less is free than a run needs, ModelError. shapes: as in `free_disk_needed`."""
    needed, free = free_disk_needed(paths, settings, shapes), free_under(paths.runs_dir)
    if free < needed:
        raise ConfigError(
            f"expected {needed / 1e9:.1f} GB free under {paths.runs_dir}, found {free / 1e9:.1f} GB; `opcod run "
            "--dry-run` says what takes it; free some, choose another --runs-dir, or set retention.keep_last or "
            "resources.min_free_disk_bytes"
        )


def free_under(directory: Path) -> int:
    """Free bytes where `directory` is, or will be."""
    place = next(parent for parent in (directory, *directory.parents) if parent.exists())
    return shutil.disk_usage(place).free


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


def _held_bytes(directory: Path) -> int:
    """Of a run that may be up, so that files come and go meanwhile."""
    held = 0
    for parent, _, files in os.walk(directory):
        for file in files:
            with suppress(OSError):
                held += (Path(parent) / file).stat().st_size
    return held
