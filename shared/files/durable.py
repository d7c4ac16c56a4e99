"""Writing so that a crash leaves the old or the new, never half: temporary name, fsync, rename, fsync the parent.

What always holds: a temporary file or directory names its writer's machine and is locked (flock) as long as it is
written, so that a sweep can tell what a dead writer left from what a live one, in any process of this machine, is
writing. A process id could not tell: containers of one machine do not see each other's. What another machine writes on
a shared volume, and what no lock could be had on, is spared until it is a day old.
"""

import errno
import fcntl
import hashlib
import os
import platform
import shutil
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from shared.errors import StorageError, WriteError

TEMPORARY = ".tmp-"
ABANDONED_AFTER_S = 24 * 3600.0
"""Nothing is written for so long."""

_CHUNK_BYTES = 1024 * 1024
# Written and hashed at once; of less, two threads take longer than one.
_SHARED_BYTES = 4 * _CHUNK_BYTES
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# NFS wants a file open for writing before it locks it, and so may lock no directory; others lock nothing, as Lustre
# where it is not mounted with `flock`.
_NO_LOCKS = frozenset({errno.EBADF, errno.ENOLCK, errno.EOPNOTSUPP, errno.EACCES, errno.ENOSYS})
# In the place of a machine: no lock tells whether the writer lives.
_UNLOCKED = "unlocked"


def sha256_file(path: Path) -> str:
    """Lower-case hex sha256 of a file's bytes. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


class DigestedFile:
    """A file at `path` whose bytes are hashed on their way to it, so that nobody has to read them for that.

    Leaving it as a context makes it durable. Every call may raise OSError.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._digest = hashlib.sha256()
        self._hasher = ThreadPoolExecutor(1)
        self.bytes = 0

    @property
    def sha256(self) -> str:
        """Lower-case hex, of what was written so far."""
        return self._digest.hexdigest()

    def write(self, data: bytes | memoryview) -> None:
        """All of `data`, as bytes."""
        view = memoryview(data)
        # One without elements cannot be cast.
        view = view.cast("B") if view.nbytes else memoryview(b"")
        for first in range(0, len(view), _SHARED_BYTES):
            part = view[first : first + _SHARED_BYTES]
            self.bytes += len(part)
            if len(part) < _CHUNK_BYTES:
                self._digest.update(part)
                self._file.write(part)
                continue
            # Neither holds the interpreter's lock: the disk and the hash take as long as the slower of them.
            hashed = self._hasher.submit(self._digest.update, part)
            try:
                self._file.write(part)
            finally:
                hashed.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hasher.shutdown()
        with self._file as file:
            if kind is None:
                file.flush()
                os.fsync(file.fileno())


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path`; the kernel lets go of it when the process ends, however it ends.

    Raises StorageError where the file system has no locks.
    """
    with path.open("w") as handle:
        if not _lock(handle.fileno()):
            raise StorageError(
                f"expected a file system that locks files under {path.parent}: without a lock two processes write the "
                "same at once; choose a directory on another one, or have it mounted with locks (Lustre: `flock`)"
            )
        yield


def _lock(descriptor: int) -> bool:
    """Wait for an exclusive lock; False where there are none. Raises OSError."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


def atomic_write(path: Path, data: bytes) -> None:
    """Replace the file at `path` by `data`, durably; its folder is made if absent. Raises WriteError."""
    with storage_errors(path, len(data)):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary, file = _locked_file(path.parent)
        try:
            # Locked until it has its name: a sweep takes what nobody locks for a dead writer's.
            with file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                temporary.rename(path)
        finally:
            temporary.unlink(missing_ok=True)
        # The rename lasts only once the folder is on the disk, too.
        sync_directory(path.parent)


def _locked_file(parent: Path) -> tuple[Path, BinaryIO]:
    """A new file, locked if it can be, for writing; tried again if a sweep came in between."""
    while True:
        path = parent / temporary_name()
        file = path.open("xb")
        try:
            if not _lock(file.fileno()):
                return path.rename(parent / temporary_name(_UNLOCKED)), file
        except OSError:
            file.close()
            path.unlink(missing_ok=True)
            raise
        # Between its making and its lock a sweep may have removed it: what is locked then has no name any more.
        if path.exists():
            return path, file
        file.close()


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make a file's bytes durable, whoever wrote them. Raises OSError."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextmanager
def temporary_directory(parent: Path) -> Iterator[Path]:
    """A directory beside the target, locked if it can be, removed at the end if it was not renamed. Raises OSError."""
    parent.mkdir(parents=True, exist_ok=True)
    path, descriptor = _locked_directory(parent)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(descriptor)


@contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """A directory to fill, which appears as `target`, absent or empty before, once all of it is there.

    Raises WriteError.
    """
    with storage_errors(target, 0), temporary_directory(target.parent) as temporary:
        yield temporary
        for path in [*temporary.rglob("*"), temporary]:
            (sync_directory if path.is_dir() else sync_file)(path)
        temporary.rename(target)
        sync_directory(target.parent)


def _locked_directory(parent: Path) -> tuple[Path, int]:
    """A new directory and the descriptor that locks it, if any can; tried again if a sweep came in between."""
    while True:
        path = parent / temporary_name()
        path.mkdir()
        with suppress(FileNotFoundError):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            if not _lock(descriptor):
                return path.rename(parent / temporary_name(_UNLOCKED)), descriptor
            # Between mkdir and lock a sweep may have removed it: what is locked then has no name any more.
            if path.exists():
                return path, descriptor
            os.close(descriptor)


@cache
def _machine() -> str:
    """Of whoever shares this kernel, and so its locks: containers of one machine, not pods on several."""
    # The same in all containers of a machine, and another after it was started again, when no lock is left.
    known = _BOOT_ID.read_text() if _BOOT_ID.exists() else platform.node()
    return hashlib.sha256(known.encode()).hexdigest()[:8]


def temporary_name(machine: str | None = None) -> str:
    """A new name; `machine` is that of the writer, by default this one."""
    return f"{TEMPORARY}{machine or _machine()}-{uuid.uuid4().hex}"


def sweep(root: Path) -> list[Path]:
    """Remove temporary files and directories under `root` whose writers are dead. Raises OSError."""
    # Not by rglob: what others remove or rename meanwhile would end it. No link is followed, as it may lead outside.
    found = [
        path
        for directory, folders, files in os.walk(root)
        for name in (*folders, *files)
        if name.startswith(TEMPORARY) and not (path := Path(directory) / name).is_symlink()
    ]
    return [path for path in sorted(found) if _remove_if_abandoned(path)]


def _remove_if_abandoned(path: Path) -> bool:
    # On a network file system the lock of a directory stays on its machine, so elsewhere only age tells.
    if not path.name.startswith(f"{TEMPORARY}{_machine()}-"):
        return _remove_if_old(path)
    try:
        # A directory cannot be opened for writing, and NFS locks no file that is open for reading only.
        mode = os.O_RDONLY if path.is_dir() else os.O_RDWR
        descriptor = os.open(path, mode | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return _remove(path)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return _remove_if_old(path)
        raise
    finally:
        os.close(descriptor)


def _remove_if_old(path: Path) -> bool:
    with suppress(FileNotFoundError):
        if time.time() - path.stat().st_mtime > ABANDONED_AFTER_S:
            return _remove(path)
    return False


def _remove(path: Path) -> bool:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    return True


@contextmanager
def storage_errors(path: Path, needed_bytes: int) -> Iterator[None]:
    """Turn OSError into a WriteError that says what was to be written, how large it is and what is free."""
    try:
        yield
    except OSError as error:
        raise WriteError(
            f"cannot write {path} ({needed_bytes} bytes needed, {_free(path)}): {error}; the previous content is "
            f"untouched; free space or correct the permissions, then try again"
        ) from error


def _free(path: Path) -> str:
    for place in path.parents:
        with suppress(OSError):
            return f"{shutil.disk_usage(place).free} free"
    return "free space unknown"
