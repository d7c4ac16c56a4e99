"""`opcod sbatch`: print a job for SLURM that trains a run, over as many jobs as it takes."""

from typing import Annotated

import typer

from opcod.options import (
    CACHE_DIR,
    DEFAULT_PRESET,
    RUNS_DIR,
    CacheDir,
    ConfigFile,
    Overrides,
    Preset,
    RunsDir,
    absolute,
    paths_for,
    settings_from,
)
from opcod.prepare.checks import check_name
from opcod.slurm.job import MOST_NOTICE_S, NOTICE_S, BatchJob

Options = Annotated[
    list[str] | None, typer.Option("--sbatch", help="A further option of sbatch, as --partition=gpu; may be repeated.")
]


def sbatch(
    run_name: Annotated[str, typer.Option("--run", help="Name of the run; the job resumes it if it exists.")],
    nodes: Annotated[int, typer.Option("--nodes", help="Nodes of the job, and of the run.", min=1)] = 1,
    gpus_per_node: Annotated[int, typer.Option("--gpus-per-node", help="GPUs of each.", min=0)] = 8,
    time: Annotated[str, typer.Option("--time", help="Limit of one job.")] = "24:00:00",
    notice_s: Annotated[
        int,
        typer.Option("--notice", help="Seconds before the limit at which the run is ended.", min=60, max=MOST_NOTICE_S),
    ] = NOTICE_S,
    options: Options = None,
    preset: Preset = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    runs_dir: RunsDir = RUNS_DIR,
    cache_dir: CacheDir = CACHE_DIR,
) -> None:
    """Print a job: `opcod sbatch --run pair --preset phys-chem --nodes 2 > job.sbatch`, then `sbatch job.sbatch`.

    Runs, cache and this installation must be on a file system that all nodes see.
    """
    check_name(run_name)
    placed = [*(overrides or ()), f"resources.nodes={nodes}"]
    settings = settings_from(preset, config, placed)
    chosen = ["--preset", preset or DEFAULT_PRESET] if preset or config is None else []
    own = [] if config is None else ["--config", str(absolute(config))]
    begin = [*chosen, *own, *(word for each in placed for word in ("--set", each))]
    job = BatchJob(
        paths_for(runs_dir, run_name, cache_dir), settings, gpus_per_node, time, begin, options or (), notice_s
    )
    typer.echo(job.script(), nl=False)
