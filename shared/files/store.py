"""Where files that must outlive a process lie: directories written once, on a local or shared file system.

What always holds: a directory appears under its name complete, with its `manifest.json`, and durable, or not at all;
one that exists is never written again; nothing is read as verified before its sha256 is.

A name is a path of plain components under one root: nothing absolute, no `..`, no `~`, no hidden file, and no symbolic
link below the root. A name is never looked up anywhere but on this disk.
"""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import stamina

from shared.contracts.weights import FileEntry
from shared.errors import ReadError, StorageError, reason, shown
from shared.files.durable import (
    DigestedFile,
    sha256_file,
    storage_errors,
    sweep,
    sync_directory,
    temporary_directory,
)

MANIFEST = "manifest.json"
GROUPS = "groups.jsonl"
"""The one file of a sealed batch; its manifest has the sha256 under `groups_sha256`."""


class ByteSink(Protocol):
    """Where the bytes of a file go, one part after the other."""

    def write(self, data: bytes | memoryview, /) -> object: ...


@dataclass(frozen=True)
class Linked:
    """What lies at `path`, durable and never written again, under a second name. sha256: as it was written."""

    path: Path
    sha256: str


Content = bytes | Linked | Callable[[ByteSink], object]
"""Bytes of a file, the file that has them, or what writes them."""

Manifest = bytes | Callable[[tuple[FileEntry, ...]], bytes]
"""Bytes of a manifest, or what makes them from the files as they were written, sorted by name."""


# Of file systems without hard links, or with a limit to them, and of files of somebody else.
_NO_LINKS = frozenset({errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS})
_COPIED_BYTES = 4 * 1024 * 1024
_COMPONENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,199}")

READ_ATTEMPTS = 4
FIRST_WAIT_S = 1.0
"""Between two, and twice as long each time: 7 s in all for a file system to answer again. No lease runs out in it."""

Read = TypeVar("Read")


def patiently(read: Callable[[], Read]) -> Read:
    """What `read` gives, which may be asked more than once: a network file system fails for a moment (ESTALE, EIO), and
    that says nothing about the file. Raises as `read` does: at once where the file is not there or is no file, and
    whatever is no OSError.
    """
    retrying = stamina.RetryingCaller(attempts=READ_ATTEMPTS, timeout=None, wait_initial=FIRST_WAIT_S, wait_jitter=0.0)
    return retrying(_may_pass, read)


def _may_pass(error: Exception) -> bool:
    stays = FileNotFoundError | NotADirectoryError | IsADirectoryError
    return isinstance(error, OSError) and not isinstance(error, stays)


def resolve(root: Path, name: str) -> Path:
    """The path of `name` under `root`, which need not exist. Raises StorageError for any other place."""
    path = root
    for component in name.split("/"):
        if not _COMPONENT.fullmatch(component):
            raise StorageError(
                f"expected a name such as weights/a/v000017 (letters, digits, '.', '_', '-', '+', '@'; no '..', "
                f"not absolute), got {shown(name)}"
            )
        path = path / component
        # At every component: a link in the middle leads out as well as one at the end.
        if path.is_symlink():
            raise StorageError(f"{path} is a symbolic link; expected a file or directory without links under {root}")
    return path


def file_name(name: str) -> str:
    """`name` if it is a single component. Raises StorageError otherwise."""
    if not _COMPONENT.fullmatch(name):
        raise StorageError(f"expected a plain file name, got {shown(name)}")
    return name


def listed_files(manifest: bytes) -> dict[str, str]:
    """sha256 by file name: from `files` (weights, checkpoints) or `groups_sha256` (batches).

    Raises StorageError if the manifest lists nothing, in neither way.
    """
    try:
        found = json.loads(manifest)
        if "files" in found:
            entries = [FileEntry.model_validate(entry) for entry in found["files"]]
            return {entry.name: entry.sha256 for entry in entries}
        return {GROUPS: str(found["groups_sha256"])}
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise StorageError(
            f"expected a manifest in JSON with `files` (name, sha256, bytes) or `groups_sha256`, got "
            f"{manifest[:80]!r}: {type(error).__name__} {reason(error)}"
        ) from error


class LocalStore:
    """Directories under `root`, which is made if absent. Every call may raise StorageError; one that reads raises
    ReadError where the system would not read, which is no fault of the files.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

    def write_directory(
        self,
        name: str,
        files: Mapping[str, Content],
        manifest: Manifest,
        beside: Callable[[Path], Sequence[FileEntry]] = lambda _: (),
    ) -> str:
        """Write it durably, at once; returns the sha256 of its manifest.

        beside: has other processes write files into the directory that it is given, as `write_file` does.
        One that exists is adopted if it is intact and its files have the same sha256; the sha256 returned is then that
        of its own manifest. Raises StorageError if other content lies there, or `manifest` does not list the files that
        were written.
        """
        target = resolve(self.root, name)
        names = {file_name(file) for file in files}
        if MANIFEST in names or not names:
            raise StorageError(f"expected at least one file, and none called {MANIFEST}, got {sorted(names)}")
        needed = sum(len(content) for content in files.values() if isinstance(content, bytes))
        with storage_errors(target, needed), temporary_directory(target.parent) as temporary:
            written = [write_file(temporary / file, files[file]) for file in sorted(names)]
            # Sorted, so that equal files give equal manifests.
            entries = tuple(sorted([*written, *beside(temporary)], key=lambda entry: entry.name))
            data = manifest if isinstance(manifest, bytes) else manifest(entries)
            _check_listing(name, data, entries)
            write_file(temporary / MANIFEST, data)
            # Another writer was first, or this one, before it crashed.
            if not _move(temporary, target):
                return self._adopt(name, entries)
            return hashlib.sha256(data).hexdigest()

    def _adopt(self, name: str, entries: tuple[FileEntry, ...]) -> str:
        data = self.read_manifest(name)
        self.verify(name, data)
        wanted, found = {entry.name: entry.sha256 for entry in entries}, listed_files(data)
        if found != wanted:
            different = sorted(file for file in {*found, *wanted} if found.get(file) != wanted.get(file))
            raise StorageError(
                f"{self.root / name} exists with other content in {different}; what is sealed is never written "
                f"again: use another run id, or move that directory away"
            )
        return hashlib.sha256(data).hexdigest()

    def set_aside(self, name: str, mark: str) -> str:
        """Rename a directory to `<mark>-…` beside its place, which is then free; returns its new name.

        Raises StorageError if it cannot be done, or another one lies there.
        """
        parent, _, last = name.rpartition("/")
        aside = f"{parent}/{mark}-{last}"
        target = resolve(self.root, aside)
        with storage_errors(target, 0):
            resolve(self.root, name).rename(target)
            sync_directory(target.parent)
        return aside

    def exists(self, name: str) -> bool:
        """Whether `name` is a directory with a manifest."""
        return self._reading(name, lambda: self._plain(name, MANIFEST).is_file())

    def members(self, name: str) -> list[str]:
        """Names of the directories with a manifest in the directory `name`, sorted; none where that is not there."""

        def found() -> list[str]:
            try:
                # Not by glob, which takes a directory that cannot be read for an empty one.
                entries = list((self.root / name).iterdir())
            except (FileNotFoundError, NotADirectoryError):
                return []
            return sorted(each.name for each in entries if (each / MANIFEST).is_file())

        return self._reading(name, found)

    def read_manifest(self, name: str) -> bytes:
        """Raises StorageError if it is absent."""
        return self._reading(f"{name}/{MANIFEST}", lambda: self._plain(name, MANIFEST).read_bytes())

    def verify(self, name: str, manifest: bytes, *, unread: Collection[str] = ()) -> None:
        """Raises StorageError unless the manifest there is `manifest`, and exactly the files it lists are there,
        unchanged. unread: files that are only to be there; somebody else checks what they hold."""
        if self.read_manifest(name) != manifest:
            raise StorageError(f"{self.root / name}: its manifest is not the expected one; it was replaced or edited")
        listed = listed_files(manifest)
        there = self._reading(name, lambda: [path.name for path in resolve(self.root, name).iterdir()])
        present = set(there) - {MANIFEST}
        # A file too many counts as well: programs that load such a directory know nothing of the manifest.
        if present != set(listed):
            raise StorageError(f"{self.root / name}: expected the files {sorted(listed)}, found {sorted(present)}")
        for file, sha256 in listed.items():
            if file in unread:
                self._reading(name, lambda: self._plain(name, file))  # noqa: B023 - called here
            else:
                self.open_verified(name, file, sha256)

    def open_verified(self, name: str, file: str, sha256: str) -> Path:
        """The path of a file whose sha256 was checked just now. Raises StorageError if it is another."""
        path = self.root / name / file_name(file)
        found = self._reading(f"{name}/{file}", lambda: sha256_file(self._plain(name, file)))
        if found != sha256:
            raise StorageError(
                f"{path}: expected sha256 {sha256}, found {found}: it was altered after it was written; restore it "
                f"or go back to an earlier version"
            )
        return path

    def sweep_temporary(self) -> list[Path]:
        """Remove what writers that died left behind; returns what was removed. What a live one is writing stays."""
        with storage_errors(self.root, 0):
            return sweep(self.root)

    def _reading(self, name: str, read: Callable[[], Read]) -> Read:
        try:
            return patiently(read)
        except OSError as error:
            told = f"cannot read {self.root / name}: {error}"
            if _may_pass(error):
                raise ReadError(
                    f"{told}; see that its volume answers and correct the permissions, then try again"
                ) from error
            raise StorageError(f"{told}; expected a directory that was written whole") from error

    def _plain(self, name: str, file: str) -> Path:
        return resolve(self.root, f"{name}/{file_name(file)}")


def write_file(path: Path, content: Content) -> FileEntry:
    """Write one file durably; its bytes are hashed on their way, and those of a linked one not again.

    Raises OSError, and StorageError for a linked file that had to be copied and is not what it was.
    """
    if isinstance(content, Linked):
        return _link(path, content)
    with DigestedFile(path) as file:
        if isinstance(content, bytes):
            file.write(content)
        else:
            content(file)
    return FileEntry(name=path.name, sha256=file.sha256, bytes=file.bytes)


def _link(path: Path, content: Linked) -> FileEntry:
    try:
        # A symbolic link that somebody put there would give the name to any file.
        os.link(content.path, path, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _copy(path, content)
    return FileEntry(name=path.name, sha256=content.sha256, bytes=path.stat().st_size)


def _copy(path: Path, content: Linked) -> FileEntry:
    with content.path.open("rb") as source, DigestedFile(path) as file:
        shutil.copyfileobj(source, file, _COPIED_BYTES)
    if file.sha256 != content.sha256:
        raise StorageError(
            f"{content.path}: expected sha256 {content.sha256}, found {file.sha256}: it was altered after it was "
            "written"
        )
    return FileEntry(name=path.name, sha256=file.sha256, bytes=file.bytes)


def _check_listing(name: str, manifest: bytes, entries: tuple[FileEntry, ...]) -> None:
    wanted, written = listed_files(manifest), {entry.name: entry.sha256 for entry in entries}
    if wanted != written:
        raise StorageError(f"the manifest of {name} lists {wanted}, but {written} was written: make it from the files")


def _move(temporary: Path, target: Path) -> bool:
    """Rename a complete directory onto its name; False if that exists. An empty directory counts as absent."""
    # First what is in it, then its name.
    sync_directory(temporary)
    try:
        temporary.rename(target)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        return False
    sync_directory(target.parent)
    return True
