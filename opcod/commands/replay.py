"""`opcod replay`: train a student again on the sealed batches of a run, to check its weights or to ask what if."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from opcod.installed import require_model_packages
from opcod.local.deployment import run_lock
from opcod.local.processes import log_tail
from opcod.local.progress import make_console
from opcod.options import CACHE_DIR, RUNS_DIR, CacheDir, Overrides, RunsDir, paths_for, settings_on
from opcod.prepare.checks import check_name
from opcod.prepare.run_directory import create_run, stored_settings
from shared.config.loading import PLANNED_FILE, differences
from shared.config.machine import cores_here
from shared.config.settings import Paths, RunSettings
from shared.contracts.models import MODELS
from shared.contracts.weights import ReplayedStep
from shared.errors import ConfigError, OpcodError, StorageError, reason
from shared.files.batches import sealed_steps
from shared.parents import environment_of_a_child

# Changes no weight, so what is rebuilt must still be as recorded.
WITHOUT_EFFECT = ("loss.trace_share:", "trainer.")


def replay(
    run_name: Annotated[str, typer.Argument(help="The run.", metavar="RUN")],
    student: Annotated[str | None, typer.Option("--student", help="Default: the first one.")] = None,
    until: Annotated[str | None, typer.Option("--until", help="Stop after this version, such as v7.")] = None,
    into: Annotated[str | None, typer.Option("--into", help="Keep the versions made, as a run of this name.")] = None,
    overrides: Overrides = None,
    runs_dir: RunsDir = RUNS_DIR,
    cache_dir: CacheDir = CACHE_DIR,
) -> None:
    """Rebuild every version of a student from the sealed batches alone, and compare it with the recorded one.

    With --set (loss, optimizer and trainer) it trains on the same rollouts and feedback with other settings; --into is
    then required. Exit code 1 if a rebuilt version differs from the recorded one.

    Example: `opcod replay RUN --student a --set loss.alpha=1 --into reverse-kl`
    """
    require_model_packages("`opcod replay`")
    if into is not None:
        check_name(into)
    paths = paths_for(runs_dir, run_name, cache_dir)
    recorded = stored_settings(paths)
    student = recorded.require_student(student or recorded.names[0])
    settings = settings_on(paths, None, None, overrides)
    last = _last_step(until)
    _require_sealed(paths, student, last)
    changed = differences(recorded, settings)
    _check_changes(changed, into)
    console = make_console()
    for line in changed:
        console.print(f"changed: {line}")
    compared = all(line.startswith(WITHOUT_EFFECT) for line in changed)
    promised = promise(settings, _device())
    console.print(promised)
    with _target(paths, into, settings) as out:
        steps = []
        for step in _replayed(paths.run_dir, out, student, last):
            console.print(f"{step.version}: {_verdict(step, compared=compared)}, loss {step.loss:.4f}")
            steps.append(step)
    console.print(_table(steps, compared=compared))
    if into:
        console.print(f"kept: {paths.runs_dir / into}")
    wrong = [step.version for step in steps if step.recorded is not None and step.checksum != step.recorded]
    if wrong and compared:
        raise OpcodError(
            f"{len(wrong)} of {len(steps)} versions differ from the recorded ones, the first is {wrong[0]}: another "
            "machine, device, thread count or library version gives other rounding; where none is other, a file was "
            f"altered. {promised}"
        )


def promise(settings: RunSettings, device: str) -> str:
    """How near to the recorded versions a replay on this device ("cuda" or "cpu") comes, for people."""
    if device == "cpu":
        threads = settings.threads_on(device, cores_here())
        return (
            f"Replayed on the CPU with resources.threads = {threads}: bit for bit, where the run "
            "trained on this machine's CPU."
        )
    if not settings.trainer.repeats(device):
        return "Replayed on the GPU with trainer.deterministic = false: the same but for rounding, each time anew."
    return "Replayed on the GPU with algorithms that repeat: bit for bit, where the run trained so on one like it."


def _device() -> str:
    # Here and not above: torch takes seconds, which a refusal need not wait for.
    from shared.modeling.device import device_here

    return device_here()


def _check_changes(changed: list[str], into: str | None) -> None:
    """Only what a trainer uses on a sealed batch can be asked for. Raises ConfigError."""
    # Rollouts and feedback are recorded: a setting that would have changed them says nothing here.
    outside = [line for line in changed if not line.startswith(("loss.", "optimizer.", "trainer."))]
    if outside:
        raise ConfigError(
            "a replay uses the rollouts and the feedback that were recorded, so only loss.*, optimizer.* and trainer.* "
            "can be changed; got:\n  " + "\n  ".join(outside)
        )
    if changed and into is None:
        raise ConfigError("with --set a replay makes a run of its own: name it with --into")


def _last_step(until: str | None) -> int | None:
    if until is None:
        return None
    number = until.rpartition("@")[2].removeprefix("v")
    if not number.isdecimal() or int(number) == 0:
        raise ConfigError(f"--until: expected a version such as v7, got {until!r}")
    return int(number)


def _require_sealed(paths: Paths, student: str, last: int | None) -> None:
    """Raises ConfigError where the run has no batch of that step; of one without any the replay itself says so."""
    sealed = sealed_steps(paths.run_dir, student)
    if last is not None and sealed and last > sealed[-1]:
        raise ConfigError(
            f"--until: expected a version that was trained, of student {student} v{sealed[-1]} is the last, got v{last}"
        )


@contextmanager
def _target(paths: Paths, into: str | None, settings: RunSettings) -> Iterator[Path]:
    """A directory with settings and models; one that was begun before goes on, if its settings are the same."""
    with tempfile.TemporaryDirectory(prefix="opcod-replay-") as directory:
        root = Path(directory) if into is None else paths.runs_dir
        target = Paths(runs_dir=root, run=into or paths.run, cache_dir=paths.cache_dir)
        # A replay that was interrupted goes on from its own checkpoints.
        if (target.run_dir / "config.toml").exists():
            other = differences(stored_settings(target), settings)
            if other or target.run_dir == paths.run_dir:
                raise ConfigError(f"{target.run_dir} holds another run; choose another --into")
        else:
            # First: with its config.toml the run is begun, and a later call goes on with it.
            _copy_models(paths.run_dir, target.run_dir)
            create_run(target, settings)
        with run_lock(target.run_dir):
            yield target.run_dir


def _copy_models(source: Path, target: Path) -> None:
    try:
        shutil.copytree(source / MODELS, target / MODELS, dirs_exist_ok=True)
        # As the trainers had it: passes of another length would round otherwise.
        if (planned := source / PLANNED_FILE).exists():
            shutil.copyfile(planned, target / PLANNED_FILE)
    except OSError as error:
        raise StorageError(f"expected to copy the models of {source} to {target}: {reason(error)}") from error


def _replayed(source: Path, out: Path, student: str, until: int | None) -> Iterator[ReplayedStep]:
    command = [sys.executable, "-m", "services.trainer.offline.replaying", "--student", student]
    command += ["--batches", str(source), "--out", str(out)]
    command += ["--until", str(until)] if until is not None else []
    log_file, environment = out / "replay.log", environment_of_a_child()
    with (
        log_file.open("ab") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environment, encoding="utf-8") as child,
    ):
        assert child.stdout is not None
        try:
            for line in child.stdout:
                yield ReplayedStep.model_validate_json(line)
        finally:
            # Also where this generator is closed early, as by Ctrl-C.
            child.terminate()
    if child.returncode:
        raise OpcodError(f"the replay ended with exit code {child.returncode}:\n{log_tail(log_file)}")


def _verdict(step: ReplayedStep, *, compared: bool) -> str:
    if not compared:
        return "trained with other settings"
    if step.recorded is None:
        return "nothing recorded to compare with"
    return "as recorded" if step.checksum == step.recorded else "other weights than recorded"


def _table(steps: list[ReplayedStep], *, compared: bool) -> Table:
    table = Table("version", "checksum", "against the run", "loss", "|g|")
    for step in steps:
        table.add_row(
            step.version,
            step.checksum[:12],
            _verdict(step, compared=compared),
            f"{step.loss:.4f}",
            f"{step.grad_norm:.4f}",
        )
    return table
