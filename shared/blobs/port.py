"""Where files that must outlive a process lie: directories written once, whole or not at all, and never changed.

What always holds, whichever implementation: a directory that exists is complete and has a `manifest.json`; a name
is a path of plain components under one root; nothing is read as verified before its sha256 is.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from shared.contracts.weights import FileEntry

Content = bytes | Callable[[Path], None]
"""Bytes of a file, or what writes it to the path that it is given."""

Manifest = bytes | Callable[[tuple[FileEntry, ...]], bytes]
"""Bytes of a manifest, or what makes them from the files as they were written, sorted by name."""


class BlobStore(Protocol):
    """Every call may raise StorageError."""

    def write_directory(self, name: str, files: Mapping[str, Content], manifest: Manifest) -> str:
        """Write it durably, at once; returns the sha256 of its manifest.

        One that exists is adopted if it is intact and its files have the same sha256 (the sha256 returned is
        then that of its own manifest), and an error otherwise.
        """
        ...

    def exists(self, name: str) -> bool: ...

    def read_manifest(self, name: str) -> bytes: ...

    def verify(self, name: str, manifest: bytes) -> None:
        """Check that the manifest there is `manifest`, and that exactly the files it lists are there, unchanged."""
        ...

    def open_verified(self, name: str, file: str, sha256: str) -> Path:
        """Path of a file whose sha256 was checked just now."""
        ...

    def sweep_temporary(self) -> list[Path]:
        """Remove what writers that died left behind; returns what was removed."""
        ...
