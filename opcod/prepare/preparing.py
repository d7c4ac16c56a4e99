"""What must be there before a run's services start: checked settings, disk, problems, models, specialists."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ValidationError

from opcod.local.deployment import latest_run
from opcod.local.gpus import VISIBLE, Shares, gpus_here, share_out, visible
from opcod.local.interrupting import stoppable
from opcod.local.processes import ProcessSpec, launch, log_tail, require_success, until_ended
from opcod.options import given, paths_for, settings_from, settings_on
from opcod.prepare.checking import base_model, check_settings
from shared.config.loading import differences, settings_of, to_toml
from shared.config.settings import STUDENTS, Paths, RunSettings
from shared.contracts.models import PreparedModel, model_file, prepared_model
from shared.contracts.run import STATE_FILE
from shared.errors import ConfigError, ModelError, StoppedError
from shared.files.durable import atomic_write

SPECIALIZE_TIMEOUT_S = 3600.0

Progress = Callable[[str], None]


def new_run_name(preset: str | None) -> str:
    return f"{preset or 'run'}-{datetime.now(UTC).strftime('%Y%m%d-%H%M%S')}"


def create_run(paths: Paths, settings: RunSettings) -> None:
    """The run's directory with its config.toml. Raises ConfigError if it is taken."""
    if (paths.run_dir / "config.toml").exists():
        raise ConfigError(
            f"{paths.run_dir} holds a run already; go on with `opcod run --resume {paths.run}`, or choose another --run"
        )
    paths.run_dir.mkdir(parents=True, exist_ok=True)
    atomic_write(paths.run_dir / "config.toml", to_toml(settings).encode())


def stored_settings(paths: Paths) -> RunSettings:
    """Settings of an existing run. Raises ConfigError if there is none."""
    if not (paths.run_dir / "config.toml").exists():
        raise ConfigError(f"expected a run at {paths.run_dir}, found none; `opcod run` starts one")
    _refuse_another_name(paths)
    return settings_of(paths.run_dir)


class _Named(BaseModel):
    """Of state.json, whatever else it holds."""

    run: str


def _refuse_another_name(paths: Paths) -> None:
    """A run's batches, versions and checkpoints hold its name, and services refuse those of another."""
    state = paths.run_dir / STATE_FILE
    try:
        name = _Named.model_validate_json(state.read_bytes()).run if state.exists() else paths.run
    except ValidationError:
        return  # the broker says what is wrong with it
    if name != paths.run:
        raise ConfigError(
            f"{paths.run_dir} holds the run {name!r}, whose files say so: expected its directory to have that name; "
            f"rename it, or move it into another --runs-dir as {name}"
        )


def kept_settings(paths: Paths, preset: str | None, config: Path | None, overrides: list[str] | None) -> RunSettings:
    """Settings of an existing run, whose command line may name settings, but no others."""
    settings = stored_settings(paths)
    if given(preset, config, overrides):
        refuse_changes(settings, settings_on(paths, preset, config, overrides))
    return settings


def served_settings(
    runs_dir: Path,
    run_name: str | None,
    cache_dir: Path,
    preset: str | None,
    config: Path | None,
    overrides: list[str] | None,
) -> tuple[Paths, RunSettings]:
    """The run that is to be served: the one named, or the one begun last. Where settings are given and there is no such
    run, or none is named, it is a new one of these settings, whose students are as they are before training.

    Raises ConfigError, and then nothing is written.
    """
    asked = given(preset, config, overrides)
    if run_name is None and not asked:
        run_name = latest_run(runs_dir)
    paths = paths_for(runs_dir, run_name or new_run_name(preset), cache_dir)
    if not asked or (paths.run_dir / "config.toml").exists():
        return paths, kept_settings(paths, preset, config, overrides)
    settings = settings_from(preset, config, overrides)
    check_settings(paths, settings)
    create_run(paths, settings)
    return paths, settings


def refuse_changes(stored: RunSettings, asked: RunSettings) -> None:
    """A run goes on with the settings it was begun with. Raises ConfigError showing every difference."""
    changed = differences(stored, asked)
    if changed:
        raise ConfigError(
            "a run is resumed with the settings it was begun with; these differ:\n  " + "\n  ".join(changed)
        )


def prepare_models(
    paths: Paths,
    settings: RunSettings,
    progress: Progress,
    stopped: Callable[[], bool] = lambda: False,
    students: Sequence[str] = STUDENTS,
) -> dict[str, float]:
    """Write `models/<student>.json` for `students`; returns the seconds of each stage.

    Scripted students need no weights. A run keeps the models it was begun with. Specialists that are not cached
    are fine-tuned here, both at once. Raises StoppedError once `stopped` says so, and ConfigError if a model of the
    run is gone and cannot be made again alike.
    """
    started = time.monotonic()
    progress("models")
    if stopped():
        raise StoppedError("stopped before any model was loaded")
    wanted = [name for name in students if settings.students[name].engine != "scripted"]
    pinned = {name: _prepared(paths, name) for name in wanted}
    missing = [name for name in wanted if not _is_there(pinned[name])]
    with stoppable("loading models"):
        models = {name: base_model(settings, name, paths) for name in missing}
    loaded = time.monotonic()
    specialists = [name for name in missing if settings.students[name].specialize]
    gpus = share_out(settings, gpus_here())
    if specialists:
        progress("specialists")
        models |= _specialize(paths, specialists, gpus, progress, stopped)
    for name, path in models.items():
        _pin(paths, name, PreparedModel(path=path, sha256=_identity(path)), pinned[name])
    return {"loading models": loaded - started, "fine-tuning specialists": time.monotonic() - loaded}


def _prepared(paths: Paths, student: str) -> PreparedModel | None:
    return prepared_model(paths.run_dir, student) if model_file(paths.run_dir, student).exists() else None


def _is_there(entry: PreparedModel | None) -> bool:
    return entry is not None and entry.path.is_dir() and _identity(entry.path) == entry.sha256


def _pin(paths: Paths, student: str, entry: PreparedModel, before: PreparedModel | None) -> None:
    if before is not None and before.sha256 != entry.sha256:
        raise ConfigError(
            f"student {student} was begun with the model {before.path} (sha256 {before.sha256[:12]}…), which is gone "
            f"or changed, and what is made now differs ({entry.sha256[:12]}…); put it back, or start a new run"
        )
    file = model_file(paths.run_dir, student)
    file.parent.mkdir(exist_ok=True)
    atomic_write(file, entry.model_dump_json().encode())


def _specialize(
    paths: Paths, students: list[str], gpus: Shares, progress: Progress, stopped: Callable[[], bool]
) -> dict[str, Path]:
    """Each specialist in a process of its own, on its trainer's GPU if there is one: their memory is given back."""
    running = {student: launch(_specializing(paths, student, gpus)) for student in students}

    def report() -> None:
        lines = [
            f"{name}: {progress_of(_specialize_log(paths, name), process.poll())}" for name, process in running.items()
        ]
        progress(f"specialists ({'; '.join(lines)})")

    until_ended(
        list(running.values()),
        "fine-tuning the specialists",
        timeout_s=SPECIALIZE_TIMEOUT_S,
        report=report,
        stopped=stopped,
    )
    return {student: _specialist(paths, student, process.returncode) for student, process in running.items()}


def _specializing(paths: Paths, student: str, gpus: Shares) -> ProcessSpec:
    own = gpus.get(f"trainer-{student}")
    places = ("--run-dir", str(paths.run_dir), "--cache-dir", str(paths.cache_dir))
    return ProcessSpec(
        f"specialize-{student}",
        "services.trainer.offline.specializing",
        _specialize_log(paths, student),
        {VISIBLE: visible(own)} if own else {},
        ("--student", student, *places),
    )


def _specialist(paths: Paths, student: str, code: int) -> Path:
    require_success(f"fine-tuning student {student}", code, _specialize_log(paths, student))
    last = log_tail(_specialize_log(paths, student), lines=1)
    return Path(json.loads(last)["path"])


def progress_of(log_file: Path, code: int | None) -> str:
    """For people. code: of a process that has ended; its last line is its result, for programs."""
    if code is not None:
        return "done" if code == 0 else f"ended with exit code {code}"
    return log_tail(log_file, lines=1)


def _specialize_log(paths: Paths, student: str) -> Path:
    return paths.run_dir / "logs" / f"specialize-{student}.log"


def _identity(model_dir: Path) -> str:
    """sha256 over the names and contents of the files that make the model."""
    digest = hashlib.sha256()
    files = sorted(p for p in model_dir.iterdir() if p.suffix in (".safetensors", ".json", ".jinja"))
    if not any(p.suffix == ".safetensors" for p in files):
        raise ModelError(f"expected *.safetensors in {model_dir}, found {sorted(p.name for p in model_dir.iterdir())}")
    for path in files:
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
