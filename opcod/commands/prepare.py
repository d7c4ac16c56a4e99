"""`opcod prepare`: what a run's services must find when they are started one by one, in containers or a cluster.

What always holds: `prepared.json` is there while the last `opcod prepare` of this run has ended well, and only then; so
services that wait for it never start with settings that were refused. Why it failed stands in `prepare.error`.

A vLLM server that runs beside its student, in a container of its own, has vLLM and nothing of ours. So its command line
and environment are written as files, the same with which a student would start the server itself;
`k8s/components/gpu/serve.sh` reads them.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from opcod.local.deployment import ensure_key, run_lock
from opcod.local.gpus import require_given
from opcod.options import (
    CACHE_DIR,
    RUNS_DIR,
    CacheDir,
    ConfigFile,
    Overrides,
    RunsDir,
    paths_for,
    settings_from,
)
from opcod.planning.machine import SOCKET_URL
from opcod.prepare.checks import check_name, check_settings, thinking_notes
from opcod.prepare.models import prepare_models
from opcod.prepare.run_directory import create_run, pin_problems, refuse_changes, stored_settings
from opcod.report.writing import is_finished
from shared.config.loading import settings_of
from shared.config.settings import Paths, RunSettings
from shared.contracts.ids import seed_of
from shared.contracts.models import prepared_model
from shared.errors import ConfigError, OpcodError, file_fault
from shared.files.durable import atomic_write
from shared.files.text import expanded
from shared.http.access import read_keys
from shared.vllm import Installation, Model, arguments, environment

ANYWHERE = Installation(python=Path("python3"), version="", on_cpu=False)


PREPARED_FILE = "prepared.json"
ERROR_FILE = "prepare.error"


KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--key-file",
        envvar="OPCOD_KEY_FILE",
        parser=expanded,
        metavar="PATH",
        help="The bearer keys; default: some made in the run.",
    ),
]
Train = Annotated[
    bool, typer.Option(envvar="OPCOD_TRAIN", help="Whether it is to go on, which needs the disk for its steps.")
]
EngineMemory = Annotated[
    float | None,
    typer.Option(
        "--engine-memory",
        envvar="OPCOD_ENGINE_MEMORY",
        help="Share of its GPU's memory for each vLLM whose `gpu_memory_utilization` is `auto`.",
    ),
]
ContainerGpus = Annotated[
    list[str] | None,
    typer.Option(
        "--container-gpus",
        envvar="OPCOD_CONTAINER_GPUS",
        metavar="SERVICE=N",
        help="How many GPUs a container has, such as trainer-a=2; settings that need more are refused.",
    ),
]


def prepare(
    run_name: Annotated[str, typer.Option("--run", envvar="OPCOD_RUN", help="Name of the run.")],
    preset: Annotated[
        str | None, typer.Option("--preset", envvar="OPCOD_PRESET", help="Settings to begin with; default: laptop.")
    ] = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    runs_dir: RunsDir = RUNS_DIR,
    cache_dir: CacheDir = CACHE_DIR,
    key_file: KeyFile = None,
    train: Train = True,
    engine_memory: EngineMemory = None,
    container_gpus: ContainerGpus = None,
    check: Annotated[
        bool, typer.Option("--check", help="Prepare nothing; exit code 2 unless the last one ended well.")
    ] = False,
) -> None:
    """Write config.toml, keys and models of a run; last comes `prepared.json`, for which services wait.

    Doing it again changes nothing. Other settings for a run that is there are refused.
    """
    check_name(run_name)
    paths = paths_for(runs_dir, run_name, cache_dir)
    if check:
        _require_prepared(paths)
        return
    paths.run_dir.mkdir(parents=True, exist_ok=True)
    with run_lock(paths.run_dir), _outcome(paths):
        settings = settings_from(preset, config, overrides)
        if engine_memory is not None:
            shares = _engine_shares(settings, engine_memory)
            settings = settings_from(preset, config, [*(overrides or ()), *shares])
        require_given(settings, container_gpus or ())
        takes_steps = train and not is_finished(paths.run_dir)
        for note in check_settings(paths, settings, "prepare", takes_steps=takes_steps):
            typer.echo(f"note: {note}")
        _settle(paths, settings)
        # Read for its errors: better here than in every service that starts with it.
        read_keys(key_file or ensure_key(paths.run_dir))
        seconds = prepare_models(paths, settings, lambda what: typer.echo(f"preparing: {what}"), purpose="prepare")
        for note in thinking_notes(paths, settings, prepared=True):
            typer.echo(f"note: {note}")
        write_engines(paths, settings_of(paths.run_dir))
        atomic_write(paths.run_dir / PREPARED_FILE, json.dumps({"seconds": seconds}).encode())
    typer.echo(f"prepared: {paths.run_dir}")


def _require_prepared(paths: Paths) -> None:
    """Raises ConfigError with what the last `opcod prepare` said, if it did not end well or there was none."""
    if (paths.run_dir / PREPARED_FILE).exists():
        return
    try:
        reason = (paths.run_dir / ERROR_FILE).read_bytes().decode()
    except FileNotFoundError:
        reason = f"there is no {paths.run_dir / PREPARED_FILE}; look at the log of `opcod prepare`"
    raise ConfigError(f"run {paths.run} is not prepared: {reason}")


@contextmanager
def _outcome(paths: Paths) -> Iterator[None]:
    """Takes back what the `opcod prepare` before said, and keeps why this one fails."""
    # First of all, so that services which wait do not start on what an earlier one said.
    for name in (PREPARED_FILE, ERROR_FILE):
        (paths.run_dir / name).unlink(missing_ok=True)
    try:
        yield
    except (OpcodError, OSError) as error:
        told = file_fault(error) if isinstance(error, OSError) else None
        atomic_write(paths.run_dir / ERROR_FILE, (told or str(error)).encode())
        raise


def _engine_shares(settings: RunSettings, share: float) -> list[str]:
    """Overrides for those engines of which the settings do not say it."""
    return [
        f"students.{name}.vllm.gpu_memory_utilization={share}"
        for name, student in settings.students.items()
        if student.engine == "vllm" and student.vllm.gpu_memory_utilization == "auto"
    ]


def _settle(paths: Paths, settings: RunSettings) -> None:
    if (paths.run_dir / "config.toml").exists():
        refuse_changes(stored_settings(paths), settings)
    else:
        create_run(paths, settings)
    pin_problems(paths, settings)


def write_engines(paths: Paths, settings: RunSettings) -> None:
    """`engines/<student>.arguments` and `.environment`, a line each, for students whose vLLM has a socket as its URL.

    Raises ConfigError if such a student's model is not prepared, or a line would hold another.
    """
    for name, student in sorted(settings.students.items()):
        url = student.vllm.url or ""
        if student.engine != "vllm" or not url.startswith(SOCKET_URL):
            continue
        rank = None if settings.run.weights == "full" else settings.lora.rank
        model = Model(prepared_model(paths.run_dir, name).path, student.dtype, rank)
        socket, seed = Path(url.removeprefix(SOCKET_URL)), seed_of(settings.run.seed, name, "vllm")
        command = arguments(ANYWHERE, student.vllm, model, socket=socket, slots=student.slots, seed=seed)
        told = environment(ANYWHERE, student.vllm, model, key="", threads=1, ours={})
        # Without the key: it reaches that container as a secret, and stands in no file of the run.
        variables = [f"{variable}={value}" for variable, value in told.items() if variable != "VLLM_API_KEY"]
        _write(paths.run_dir / "engines" / f"{name}.arguments", command[1:])
        _write(paths.run_dir / "engines" / f"{name}.environment", variables)


def _write(file: Path, lines: list[str]) -> None:
    if any("\n" in line for line in lines):
        raise ConfigError(f"{file.name}: expected arguments of one line each, got {lines!r}")
    file.parent.mkdir(exist_ok=True)
    atomic_write(file, "".join(f"{line}\n" for line in lines).encode())
