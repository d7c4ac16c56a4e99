"""`opcod gpu-check`: two steps of the paper's run on the GPUs that are here; what they took beside what was planned.

What always holds: without a GPU nothing is made; nothing is fetched.
"""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from opcod.commands.run import train
from opcod.installed import require_model_packages
from opcod.local.deployment import refuse_elsewhere
from opcod.local.processes import Launch, launch
from opcod.local.progress import make_console, tell
from opcod.local.usage import CardPeak, watching
from opcod.options import CACHE_DIR, RUNS_DIR, CacheDir, Overrides, RunsDir, paths_for
from opcod.planning.plan import Planned, plan_run
from opcod.prepare.checks import check_settings
from opcod.prepare.run_directory import create_run, new_run_name
from opcod.report.gpu_text import GpuFigures, faults, to_markdown
from opcod.report.writing import current_report, records_of, report_directory, state_of
from shared.config.loading import load_settings
from shared.config.settings import Paths, RunSettings
from shared.contracts.models import served_by
from shared.contracts.run import STATE_FILE
from shared.errors import ConfigError, OpcodError
from shared.files.durable import atomic_write
from shared.files.text import expanded
from shared.gpus import VISIBLE, GpuReader, NvmlReader, driver, gpus_here

PRESET = "gpu-check"
PAGE = "gpu.md"


def gpu_check(
    model: Annotated[
        str, typer.Option("--model", help="Model of both students: a directory, or a hub id that was fetched before.")
    ],
    problems: Annotated[
        Path | None,
        typer.Option(
            "--problems",
            parser=expanded,
            metavar="PATH",
            help="A directory of SciKnowEval; default: generated problems.",
        ),
    ] = None,
    run_name: Annotated[str | None, typer.Option("--run", help="Name of the run; default: gpu-check and time.")] = None,
    overrides: Overrides = None,
    runs_dir: RunsDir = RUNS_DIR,
    cache_dir: CacheDir = CACHE_DIR,
) -> None:
    """Train two steps on the GPUs here, and write report/gpu.md: planned beside measured. Needs no network.

    Exit code 1 if something is not as planned.
    """
    # Before all else: nobody should wait, or find half a run, to learn that there is no GPU.
    if not gpus_here():
        raise ConfigError(
            f"gpu-check: expected a GPU, found none: nvidia-smi lists none here, or {VISIBLE} names none; on a CPU "
            "`opcod run --dry-run --gpus 1x80` shows the plan"
        )
    refuse_elsewhere("`opcod gpu-check`")
    require_model_packages("`opcod gpu-check`")
    settings = load_settings(preset=PRESET, overrides=[*_chosen(model, problems), *(overrides or ())])
    paths = paths_for(runs_dir, run_name or new_run_name(PRESET), cache_dir)
    planned = planned_offline(paths, settings)
    notes = check_settings(paths, settings)
    reader = NvmlReader()
    create_run(paths, settings)
    console = make_console()
    for note in notes:
        tell(console, f"note: {note}")
    found = check(paths, settings, planned, reader, console)
    for fault in found:
        console.print(f"not as planned: {fault}", soft_wrap=True)
    console.print(f"page: {report_directory(paths.run_dir) / PAGE}", soft_wrap=True)
    raise typer.Exit(1 if found else 0)


def _chosen(model: str, problems: Path | None) -> list[str]:
    """Settings that the options stand for."""
    named = Path(model).expanduser()
    models = [f"students.{student}.model={named.resolve() if named.exists() else model}" for student in ("a", "b")]
    if problems is None:
        return models
    if not problems.is_dir():
        raise ConfigError(f"--problems: expected a directory of SciKnowEval (docs/data.md), got {problems}")
    return [*models, f"problems.source=sciknoweval:{problems.resolve()}", "problems.format=mcq"]


def planned_offline(paths: Paths, settings: RunSettings, sizes: tuple[int, ...] | None = None) -> Planned:
    """The plan of a run whose models are here; sizes: of cards in place of those that are here.

    Raises ConfigError with all that is missing.
    """
    from shared.modeling.resolving import find_model

    for name, student in settings.students.items():
        if find_model(student.model, paths.cache_dir) is None:
            raise ConfigError(
                f"students.{name}.model: expected a model that is on this machine, {student.model} is not; name a "
                "directory with its weights, or fetch it first"
            )
    planned = plan_run(paths, settings, sizes)
    if planned.missing:
        raise ConfigError("such a run cannot begin:\n  " + "\n  ".join(planned.missing))
    if not planned.cards.cards:
        raise ConfigError(
            "gpu-check: expected GPUs and a model whose sizes are known, to plan their memory: nvidia-smi does not "
            "tell how large these GPUs are (MIG), or the model's config.json lacks a size that a Llama's has"
        )
    return planned


def check(
    paths: Paths,
    settings: RunSettings,
    planned: Planned,
    reader: GpuReader,
    console: Console,
    start_process: Launch = launch,
) -> list[str]:
    """Run, and write the page, also where the run fails; returns what is not as planned.

    Raises what the run does. planned: with cards, those that `reader` reads.
    """
    peaks, look = watching(reader)
    try:
        train(paths, settings, console, resumed=False, look=look, start_process=start_process)
    except OpcodError:
        # What it took until then is what one wants to see.
        if (paths.run_dir / STATE_FILE).exists():
            _write(paths, _measured(paths, settings, planned, peaks.cards))
        raise
    measured = _measured(paths, settings, planned, peaks.cards)
    _write(paths, measured)
    return faults(measured)


def _measured(paths: Paths, settings: RunSettings, planned: Planned, peaks: list[CardPeak]) -> GpuFigures:
    return GpuFigures(
        settings=settings,
        machine=_machine(paths, settings),
        cards=planned.cards.cards,
        peaks=peaks,
        work=planned.work,
        state=state_of(paths.run_dir),
        report=current_report(paths),
        steps=[record for student in sorted(settings.students) for record in records_of(paths, student)],
    )


def _machine(paths: Paths, settings: RunSettings) -> Mapping[str, str]:
    engines = {f"engine {replica}": engine.line for replica, engine in served_by(paths.run_dir).items()}
    models = {f"model of {name}": student.model for name, student in sorted(settings.students.items())}
    releases = {name: version(name) for name in ("opcod", "torch")}
    return {"driver": driver(), **releases, **engines, **models, "problems": settings.problems.source}


def _write(paths: Paths, measured: GpuFigures) -> None:
    atomic_write(report_directory(paths.run_dir) / PAGE, to_markdown(measured).encode())
