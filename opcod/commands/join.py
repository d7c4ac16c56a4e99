"""`opcod join`: another node of a run, which starts there what is placed on it, until the run is over."""

from typing import Annotated

import typer

from opcod.local.deployment import refuse_elsewhere
from opcod.local.joining import join_run
from opcod.local.progress import make_console, tell
from opcod.local.signals import interruptible
from opcod.options import CACHE_DIR, RUNS_DIR, CacheDir, RunsDir, paths_for


def join(
    run_name: Annotated[
        str, typer.Argument(metavar="RUN", help="A run with resources.nodes; it may start on node 0 later.")
    ],
    node: Annotated[
        int, typer.Option("--node", envvar="OPCOD_NODE_RANK", help="Which node this one is, from 1.", min=1)
    ],
    address: Annotated[
        str | None,
        typer.Option(
            "--address", envvar="OPCOD_ADDRESS", help="Where other nodes reach this one; default: as it faces node 0."
        ),
    ] = None,
    runs_dir: RunsDir = RUNS_DIR,
    cache_dir: CacheDir = CACHE_DIR,
) -> None:
    """Start the services of a run that are placed on this node, and watch them until the run is over.

    Runs directory and cache must be the same ones that node 0 uses, on a file system that both see.
    """
    refuse_elsewhere("`opcod join`")
    console = make_console()
    paths = paths_for(runs_dir, run_name, cache_dir)
    with interruptible() as interrupted:
        join_run(paths, node, address, lambda what: tell(console, what), interrupted)
