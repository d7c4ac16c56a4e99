"""`opcod export`: a student's version as a directory that transformers and vLLM load, and to the hub."""

from pathlib import Path
from typing import Annotated

import typer

from opcod.installed import require_model_packages
from opcod.local.progress import make_console
from opcod.local.signals import interruptible
from opcod.options import CACHE_DIR, RUNS_DIR, CacheDir, RunsDir, absolute, paths_for
from opcod.prepare.models import prepare_models
from opcod.prepare.run_directory import stored_settings
from opcod.talk.exchanges import run_directory
from shared.files.text import expanded


def export(
    run_name: Annotated[str, typer.Argument(metavar="RUN", help="The run.")],
    out: Annotated[Path, typer.Argument(metavar="DIR", parser=expanded, help="A directory: new or empty.")],
    student: Annotated[str, typer.Option("--student", help="The student to export.")],
    version: Annotated[
        str | None,
        typer.Option("--version", help="v12; default: the live one. v0: the model that training began with."),
    ] = None,
    merge: Annotated[
        bool, typer.Option("--merge/--adapter", help="One model, or the adapter with the base that it needs.")
    ] = True,
    repository: Annotated[
        str | None, typer.Option("--push", help="owner/name: upload it to the hub, too; a new repository is private.")
    ] = None,
    runs_dir: RunsDir = RUNS_DIR,
    cache_dir: CacheDir = CACHE_DIR,
) -> None:
    """Write a student's version as a directory that transformers and vLLM load as it is, with a model card.

    Example: `opcod export RUN ./model --student a`
    """
    require_model_packages("`opcod export`")
    # Torch takes seconds, and most commands do without.
    from opcod.export.hub import open_hub, push
    from opcod.export.writing import choose, require_new, require_room, write

    paths = paths_for(runs_dir, run_directory(runs_dir, run_name).name, cache_dir)
    target = absolute(out)
    # Whatever can be refused is refused before a model is loaded.
    require_new(target)
    hub = open_hub(repository) if repository else None
    wanted = choose(paths, student, version, merge=merge, repository=repository)
    require_room(paths, wanted, target)
    console = make_console()
    with interruptible() as interrupted:
        settings = stored_settings(paths)
        prepare_models(
            paths,
            settings,
            lambda what: console.print(f"preparing: {what}"),
            interrupted,
            students=(student,),
            # The run may be up, here or elsewhere, and its services go by the plan that there is.
            purpose=None,
        )
        write(paths, wanted, target)
    console.print(f"written: {target} ({wanted.version})", soft_wrap=True)
    if hub is not None and repository is not None:
        push(hub, repository, target, f"{wanted.version} of {paths.run}")
        console.print(f"pushed: {repository}")
