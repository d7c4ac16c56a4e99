"""`opcod model`: put a model into the cache."""

from typing import Annotated

import typer

from opcod.installed import require_model_packages
from opcod.options import CACHE_DIR, CacheDir, absolute


def model(
    name: Annotated[str, typer.Argument(help="`embedded`, a local directory, or a hub id.")] = "embedded",
    cache_dir: CacheDir = CACHE_DIR,
) -> None:
    """Resolve a model, converting or fetching it if needed, and print its directory."""
    require_model_packages("`opcod model`")
    from shared.modeling.resolving import resolve_model

    typer.echo(str(resolve_model(name, absolute(cache_dir))))
