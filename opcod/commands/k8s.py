"""`opcod k8s`: the manifests of a deployment made to hold the students of the settings."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from opcod.deployed.rendering import STUDENT_FOLDERS, kubernetes_files
from opcod.options import ConfigFile, Overrides, Preset, absolute, settings_from
from shared.errors import ConfigError
from shared.files.durable import atomic_write
from shared.files.text import expanded


def k8s(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", parser=expanded, help="The folder `k8s` of a copy of this project.")
    ],
    preset: Preset = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
) -> None:
    """Write the files of k8s/ that name students, for those of the settings, and remove the folders of others.

    For the students a and b they are those of the repository.
    """
    target = absolute(directory)
    if not (target / "base" / "student").is_dir():
        raise ConfigError(f"expected the folder k8s of a copy of this project, {target} has no base/student")
    files = {
        target / path: text for path, text in kubernetes_files(settings_from(preset, config, overrides).names).items()
    }
    for folder in sorted(path for folders in STUDENT_FOLDERS.values() for path in target.glob(folders)):
        if folder / "kustomization.yaml" not in files:
            shutil.rmtree(folder)
            typer.echo(f"removed: {folder}")
    for path, text in sorted(files.items()):
        path.parent.mkdir(exist_ok=True)
        atomic_write(path, text.encode())
        typer.echo(f"written: {path}")
