"""From a name to a path under a root, and to nowhere else.

What always holds: a name is made of plain components; nothing absolute, no `..`, no `~`, no hidden file, and no
symbolic link below the root. A name is never looked up anywhere but on this disk.
"""

import re
from pathlib import Path

from shared.errors import StorageError

_COMPONENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,199}")


def resolve(root: Path, name: str) -> Path:
    """The path of `name` under `root`, which need not exist. Raises StorageError for any other place."""
    path = root
    for component in name.split("/"):
        if not _COMPONENT.fullmatch(component):
            raise StorageError(
                f"expected a name such as weights/a/v000017 (letters, digits, '.', '_', '-', '+', '@'; no '..', "
                f"not absolute), got {name!r}"
            )
        path = path / component
        if path.is_symlink():
            raise StorageError(f"{path} is a symbolic link; expected a file or directory without links under {root}")
    return path


def file_name(name: str) -> str:
    """`name` if it is a single component. Raises StorageError otherwise."""
    if not _COMPONENT.fullmatch(name):
        raise StorageError(f"expected a plain file name, got {name!r}")
    return name
