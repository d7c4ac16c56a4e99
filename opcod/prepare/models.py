"""The models of a run, made or found before its services start: base models and fine-tuned specialists.

`models/<student>.json` pins each by its path and the sha256 over its files; a run keeps those it was begun with.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from opcod.installed import require_model_packages
from opcod.local.gpus import Shares, apart, share_out, visible
from opcod.local.nodes import on_one_node
from opcod.local.processes import (
    SILENT_S,
    ProcessSpec,
    launch,
    log_tail,
    require_success,
    result_line,
    until_ended,
)
from opcod.local.signals import stoppable
from opcod.planning.disk import known_shapes, require_disk
from opcod.planning.machine import Purpose, in_words, write_plan
from shared.config.machine import cores_here
from shared.config.settings import Paths, RunSettings
from shared.contracts.models import PreparedModel, model_file, prepared_model
from shared.errors import ConfigError, ModelError, StoppedError
from shared.files.durable import atomic_write
from shared.gpus import VISIBLE, gpus_here
from shared.modeling.checksums import file_checksum, model_files, stamps

Progress = Callable[[str], None]


def prepare_models(
    paths: Paths,
    settings: RunSettings,
    progress: Progress,
    stopped: Callable[[], bool] = lambda: False,
    students: Sequence[str] | None = None,
    purpose: Purpose | None = "run",
) -> dict[str, float]:
    """Write `models/<student>.json` for `students`, by default all; returns the seconds of each stage.

    purpose: what the GPUs' memory is planned for; None leaves the plan that there is.
    Scripted students need no weights. A run keeps the models it was begun with. Specialists that are not cached
    are fine-tuned here, all at once but for those that share a GPU, those of `specialize.source = "self"` after they
    have drawn answers of their own.
    Raises StoppedError once `stopped` says so, and ConfigError if a model of the run is gone and cannot be made again
    alike, or a disk has too little room for what is made.
    """
    started = time.monotonic()
    progress("models")
    if stopped():
        raise StoppedError("stopped before any model was loaded")
    wanted = [name for name in students or settings.names if settings.students[name].engine != "scripted"]
    # Resumed, replayed and served on the same weights: what is pinned and unchanged is not resolved again.
    pinned = {name: _prepared(paths, name) for name in wanted}
    missing = [name for name in wanted if not _is_there(pinned[name])]
    # Also of a run that was begun: the cache may have been emptied since.
    to_come = {name: shape for name, shape in known_shapes(paths, settings).items() if name in missing}
    require_disk(paths, settings, to_come, takes_steps=False)
    # A download or a conversion asks nobody whether to go on, so a signal has to break into it.
    with stoppable("loading models"):
        models = {name: base_model(settings, name, paths) for name in missing}
    if purpose is not None:
        # Before the first server and the first trainer: both go by it.
        for card in write_plan(paths, settings, {**_paths(pinned), **models}, purpose).cards:
            progress(in_words(card))
    loaded = time.monotonic()
    specialists = [name for name in missing if settings.students[name].specialize]
    if not specialists:
        gpus, ranks = {}, 1
    else:
        # On this machine, wherever its students and trainers will be.
        available = gpus_here()
        here = as_made_here(settings, available, purpose)
        gpus, ranks = share_out(here, available), here.trainer.ranks
    own = [name for name in specialists if settings.learns_from_itself(name)]
    if own:
        progress("own answers")
        _draw_answers(paths, own, gpus, progress, stopped)
    drawn = time.monotonic()
    if specialists:
        progress("specialists")
        models |= _specialize(paths, specialists, own, gpus, ranks, progress, stopped)
    for name, path in models.items():
        _pin(paths, name, _prepared_now(path), pinned[name])
    if not specialists:
        return {"loading models": time.monotonic() - started}
    drawing = {"drawing own answers": drawn - loaded} if own else {}
    return {"loading models": loaded - started, **drawing, "fine-tuning specialists": time.monotonic() - drawn}


def _paths(pinned: Mapping[str, PreparedModel | None]) -> dict[str, Path]:
    return {name: entry.path for name, entry in pinned.items() if entry is not None}


def _prepared(paths: Paths, student: str) -> PreparedModel | None:
    return prepared_model(paths.run_dir, student) if model_file(paths.run_dir, student).exists() else None


def _is_there(entry: PreparedModel | None) -> bool:
    if entry is None or not entry.path.is_dir():
        return False
    return entry.stamps == stamps(model_files(entry.path)) or _identity(entry.path) == entry.sha256


def _prepared_now(path: Path) -> PreparedModel:
    # Before anything is read: what is written meanwhile shows later.
    seen = stamps(model_files(path))
    checksum = file_checksum(*sorted(path.glob("*.safetensors")))
    return PreparedModel(path=path, sha256=_identity(path), checksum=checksum, stamps=seen)


def _pin(paths: Paths, student: str, entry: PreparedModel, before: PreparedModel | None) -> None:
    if before is not None and before.sha256 != entry.sha256:
        raise ConfigError(
            f"student {student} was begun with the model {before.path} (sha256 {before.sha256[:12]}…), which is gone "
            f"or changed, and what is made now differs ({entry.sha256[:12]}…); put it back, or start a new run"
        )
    file = model_file(paths.run_dir, student)
    file.parent.mkdir(exist_ok=True)
    atomic_write(file, entry.model_dump_json().encode())


def _draw_answers(
    paths: Paths, students: Sequence[str], gpus: Shares, progress: Progress, stopped: Callable[[], bool]
) -> None:
    """Write `examples/<student>.jsonl`, each on the GPUs of the engine that asks the base model."""
    specs = {
        student: _making(
            paths,
            student,
            "own-answers",
            "services.student.own_answers",
            gpus.get(f"student-{student}"),
            ("--examples", str(_own_examples(paths, student))),
        )
        for student in students
    }
    _run_apart(specs, "student", gpus, "drawing own answers", progress, stopped)


def _specialize(
    paths: Paths,
    students: Sequence[str],
    own: Sequence[str],
    gpus: Shares,
    ranks: int,
    progress: Progress,
    stopped: Callable[[], bool],
) -> dict[str, Path]:
    """Each specialist in processes of its own, on its trainer's GPUs if there are any: their memory is given back."""
    specs = {
        student: _making(
            paths,
            student,
            "specialize",
            "services.trainer.offline.specializing",
            gpus.get(f"trainer-{student}"),
            ("--ranks", str(ranks), *(("--examples", str(_own_examples(paths, student))) if student in own else ())),
        )
        for student in students
    }
    _run_apart(specs, "trainer", gpus, "fine-tuning the specialists", progress, stopped)
    return {name: made_in(spec.log_file) for name, spec in specs.items()}


def made_in(log_file: Path) -> Path:
    """The specialist that a log tells of. Raises OpcodError where it tells of none."""
    return Path(json.loads(result_line(log_file, '{"path"'))["path"])


def as_made_here(settings: RunSettings, available: int, purpose: Purpose | None) -> RunSettings:
    """With no more ranks than can work on this machine. available: GPUs."""
    here = on_one_node(settings)
    # A run of this machine is refused where it has too few GPUs; what is prepared or served here may be trained
    # elsewhere.
    most = available if purpose in ("prepare", "up") else here.trainer.ranks
    ranks = min(here.trainer.ranks, most if available else cores_here())
    return here.model_copy(update={"trainer": here.trainer.model_copy(update={"ranks": ranks})})


def _making(
    paths: Paths, student: str, name: str, module: str, gpus: tuple[int, ...] | None, arguments: Sequence[str]
) -> ProcessSpec:
    places = ("--run-dir", str(paths.run_dir), "--cache-dir", str(paths.cache_dir))
    return ProcessSpec(
        f"{name}-{student}",
        module,
        paths.run_dir / "logs" / f"{name}-{student}.log",
        {VISIBLE: visible(gpus)} if gpus else {},
        ("--student", student, *places, *arguments),
    )


def _run_apart(
    specs: Mapping[str, ProcessSpec],
    service: str,
    gpus: Shares,
    what: str,
    progress: Progress,
    stopped: Callable[[], bool],
) -> None:
    """The processes of all students at once; one after the other where they share a GPU, which has no room for two."""
    named = {f"{service}-{student}": student for student in specs}
    for turn in apart(gpus, list(named)):
        _run_together({named[each]: specs[named[each]] for each in turn}, what, progress, stopped)


def _run_together(specs: Mapping[str, ProcessSpec], what: str, progress: Progress, stopped: Callable[[], bool]) -> None:
    """Raises as `until_ended` and `require_success`."""
    running = {student: launch(spec) for student, spec in specs.items()}

    def report() -> None:
        lines = [
            f"{student}: {progress_of(specs[student].log_file, process.poll())}" for student, process in running.items()
        ]
        progress(f"{what} ({'; '.join(lines)})")

    until_ended(
        list(running.values()),
        what,
        timeout_s=SILENT_S,
        report=report,
        stopped=stopped,
        progress=lambda: [spec.log_file.stat().st_size for spec in specs.values()],
    )
    for student, process in running.items():
        require_success(f"{what}, student {student},", process.returncode, specs[student].log_file)


def _own_examples(paths: Paths, student: str) -> Path:
    return paths.run_dir / "examples" / f"{student}.jsonl"


def progress_of(log_file: Path, code: int | None) -> str:
    """For people. code: of a process that has ended; its last line is its result, for programs."""
    if code is not None:
        return "done" if code == 0 else f"ended with exit code {code}"
    return log_tail(log_file, lines=1) or "starts"


def _identity(model_dir: Path) -> str:
    """sha256 over the names and contents of the files that make the model."""
    digest = hashlib.sha256()
    files = model_files(model_dir)
    if not any(p.suffix == ".safetensors" for p in files):
        raise ModelError(f"expected *.safetensors in {model_dir}, found {sorted(p.name for p in model_dir.iterdir())}")
    for path in files:
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def base_model(settings: RunSettings, student: str, paths: Paths) -> Path:
    """The directory of a student's base model, converted or fetched if needed. Raises ModelError."""
    require_model_packages("a run")
    from shared.modeling.resolving import resolve_model

    return resolve_model(settings.students[student].model, paths.cache_dir)
