"""Directories that appear whole or not at all, and are read only after a check."""

import errno
import fcntl
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opcod.local.deployment import run_lock
from shared.contracts.weights import FileEntry
from shared.errors import ConfigError, StorageError
from shared.files.durable import ABANDONED_AFTER_S, TEMPORARY, atomic_write, locked, sha256_file, temporary_name
from shared.files.store import ByteSink, Content, Linked, LocalStore, listed_files, resolve, write_file

NAME = "weights/a/v000017"
FILES = {"adapter_model.safetensors": b"tensors", "adapter_config.json": b"{}"}


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def manifest_of(files: dict[str, bytes], **more: object) -> bytes:
    entries = [{"name": name, "sha256": sha256(data), "bytes": len(data)} for name, data in files.items()]
    return json.dumps({"files": entries, **more}).encode()


def listed(entries: tuple[FileEntry, ...]) -> bytes:
    return json.dumps({"files": [entry.model_dump() for entry in entries]}).encode()


def leftovers(root: Path) -> list[Path]:
    return list(root.rglob(f"{TEMPORARY}*"))


def test_a_directory_is_written_whole_and_verified(store: LocalStore) -> None:
    manifest = manifest_of(FILES)
    assert not store.exists(NAME)
    assert store.write_directory(NAME, FILES, manifest) == sha256(manifest)
    assert store.exists(NAME)
    assert store.read_manifest(NAME) == manifest
    store.verify(NAME, manifest)
    for name, data in FILES.items():
        assert store.open_verified(NAME, name, sha256(data)).read_bytes() == data
    assert leftovers(store.root) == []


def test_a_writer_gets_a_sink_and_the_manifest_is_made_from_what_it_wrote(store: LocalStore) -> None:
    def write(sink: ByteSink) -> None:
        for part in (b"12", memoryview(b""), memoryview(array("H", [0x3433])), b"5"):
            sink.write(part)

    digest = store.write_directory(NAME, {"b.json": write, "a.json": b"1"}, listed)
    manifest = store.read_manifest(NAME)
    assert digest == sha256(manifest)
    assert listed_files(manifest) == {"a.json": sha256(b"1"), "b.json": sha256(b"12345")}
    store.verify(NAME, manifest)


@pytest.mark.parametrize("size", [0, 1, 2**20 - 1, 2**20, 2**22, 2**22 + 1, 2**23 + 2**20])
def test_what_is_hashed_on_its_way_is_what_lies_there(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    assert write_file(tmp_path / "x", lambda sink: sink.write(memoryview(data))) == FileEntry(
        name="x", sha256=sha256(data), bytes=size
    )
    assert (tmp_path / "x").read_bytes() == data


def test_a_linked_file_lies_there_once_under_two_names(store: LocalStore) -> None:
    data = FILES["adapter_model.safetensors"]
    store.write_directory(NAME, FILES, manifest_of(FILES))
    kept = store.root / NAME / "adapter_model.safetensors"
    files: dict[str, Content] = {"adapter_model.safetensors": Linked(kept, sha256(data)), "adapter_config.json": b"{}"}
    store.write_directory("weights/a/v000018", files, listed)
    twin = store.root / "weights/a/v000018/adapter_model.safetensors"
    assert twin.samefile(kept)
    store.verify("weights/a/v000018", store.read_manifest("weights/a/v000018"))
    shutil.rmtree(kept.parent)
    assert twin.read_bytes() == data


@pytest.mark.parametrize("refusal", [errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP])
def test_where_there_are_no_links_a_file_is_copied_and_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: int
) -> None:
    def refuse(*_paths: Path, follow_symlinks: bool) -> None:  # noqa: ARG001
        raise OSError(refusal, os.strerror(refusal))

    monkeypatch.setattr(os, "link", refuse)
    kept = tmp_path / "kept"
    kept.write_bytes(b"tensors")
    assert write_file(tmp_path / "copy", Linked(kept, sha256(b"tensors"))).sha256 == sha256(b"tensors")
    assert (tmp_path / "copy").read_bytes() == b"tensors" and not (tmp_path / "copy").samefile(kept)
    with pytest.raises(StorageError, match="altered"):
        write_file(tmp_path / "other", Linked(kept, sha256(b"tensorz")))


def test_any_other_failure_to_link_is_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_file(tmp_path / "copy", Linked(tmp_path / "gone", sha256(b"")))


def test_what_others_write_beside_is_listed_with_it_or_nothing_is_there(store: LocalStore) -> None:
    def others(directory: Path) -> list[FileEntry]:
        return [write_file(directory / "a-2.json", b"2")]

    store.write_directory(NAME, {"b.json": b"1"}, listed, others)
    manifest = store.read_manifest(NAME)
    assert list(listed_files(manifest)) == ["a-2.json", "b.json"]
    store.verify(NAME, manifest)

    def fail(_: Path) -> list[FileEntry]:
        raise StorageError("on rank 1 of 2")

    with pytest.raises(StorageError, match="rank 1"):
        store.write_directory("weights/a/v000002", {"b.json": b"1"}, listed, fail)
    assert not store.exists("weights/a/v000002")
    assert leftovers(store.root) == []


def test_a_sealed_batch_lists_its_groups(store: LocalStore) -> None:
    manifest = json.dumps({"groups_sha256": sha256(b"lines")}).encode()
    store.write_directory("batches/a/s00017", {"groups.jsonl": b"lines"}, manifest)
    store.verify("batches/a/s00017", manifest)


def test_an_existing_directory_with_the_same_files_is_adopted(store: LocalStore) -> None:
    first = manifest_of(FILES, seconds=1)
    store.write_directory(NAME, FILES, first)
    before = (store.root / NAME).stat().st_mtime_ns
    assert store.write_directory(NAME, FILES, manifest_of(FILES, seconds=2)) == sha256(first)
    assert store.read_manifest(NAME) == first
    assert (store.root / NAME).stat().st_mtime_ns == before
    assert leftovers(store.root) == []


def test_an_existing_directory_with_other_files_is_an_error(store: LocalStore) -> None:
    store.write_directory(NAME, FILES, manifest_of(FILES))
    other = FILES | {"adapter_model.safetensors": b"others"}
    with pytest.raises(StorageError, match="adapter_model"):
        store.write_directory(NAME, other, manifest_of(other))
    store.verify(NAME, manifest_of(FILES))
    assert leftovers(store.root) == []


def test_an_existing_directory_that_is_damaged_is_not_adopted(store: LocalStore) -> None:
    store.write_directory(NAME, FILES, manifest_of(FILES))
    (store.root / NAME / "adapter_config.json").write_bytes(b"[]")
    with pytest.raises(StorageError, match="adapter_config"):
        store.write_directory(NAME, FILES, manifest_of(FILES))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "bit flip": lambda d: (d / "adapter_model.safetensors").write_bytes(b"tensorz"),
    "truncated": lambda d: (d / "adapter_model.safetensors").write_bytes(b"tens"),
    "missing": lambda d: (d / "adapter_model.safetensors").unlink(),
    "unlisted": lambda d: (d / "more.bin").write_bytes(b""),
    "other manifest": lambda d: (d / "manifest.json").write_bytes(manifest_of({"x": b""})),
    "no manifest": lambda d: (d / "manifest.json").unlink(),
    "symlink": lambda d: _link(d / "adapter_model.safetensors"),
}


def _link(path: Path) -> None:
    twin = path.parent.parent / "twin"
    path.rename(twin)
    path.symlink_to(twin)


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found(store: LocalStore, damage: str) -> None:
    store.write_directory(NAME, FILES, manifest_of(FILES))
    DAMAGE[damage](store.root / NAME)
    with pytest.raises(StorageError):
        store.verify(NAME, manifest_of(FILES))


@pytest.mark.parametrize("manifest", [b"", b"[]", b"{}", b"3", b'{"files":[{"name":"x"}]}', b'{"files":3}'])
def test_a_manifest_that_lists_nothing_is_refused(store: LocalStore, manifest: bytes) -> None:
    with pytest.raises(StorageError, match="manifest"):
        store.write_directory(NAME, FILES, manifest)
    assert not store.exists(NAME)


def test_a_manifest_that_lists_something_else_is_refused(store: LocalStore) -> None:
    with pytest.raises(StorageError, match="lists"):
        store.write_directory(NAME, FILES, manifest_of({"other": b""}))
    assert not store.exists(NAME)
    assert leftovers(store.root) == []


@pytest.mark.parametrize("files", [{}, {"manifest.json": b""}, {"../x": b""}, {".hidden": b""}, {"a/b": b""}])
def test_file_names_are_plain_and_never_the_manifest(store: LocalStore, files: dict[str, bytes]) -> None:
    with pytest.raises(StorageError):
        store.write_directory(NAME, files, manifest_of(files))


ESCAPES = ["", "/etc", "..", "a/../b", "~", "~root/x", "./a", "https://x"]
ODD = ["a//b", "a/", "a\\b", "a\x00b", "a\n", ".tmp-1"]


@pytest.mark.parametrize("name", ESCAPES + ODD)
def test_names_lead_nowhere_else(store: LocalStore, name: str) -> None:
    for action in (store.exists, store.read_manifest, lambda n: store.open_verified(n, "f", "0" * 64)):
        with pytest.raises(StorageError, match="expected a name"):
            action(name)
    with pytest.raises(StorageError, match="expected a name"):
        store.write_directory(name, FILES, manifest_of(FILES))


@given(st.text(alphabet="ab./~\\@-_ \n", max_size=12))
def test_whatever_resolves_lies_under_the_root(name: str) -> None:
    root = Path("/srv/opcod/run")
    try:
        path = resolve(root, name)
    except StorageError:
        return
    assert Path(os.path.normpath(path)).is_relative_to(root)
    assert path != root


def test_a_symlink_on_the_way_is_refused(store: LocalStore, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (store.root / "weights").symlink_to(outside)
    with pytest.raises(StorageError, match="symbolic link"):
        store.write_directory(NAME, FILES, manifest_of(FILES))
    assert list(outside.iterdir()) == []


def test_an_error_while_writing_leaves_nothing(store: LocalStore) -> None:
    def full(sink: ByteSink) -> None:
        sink.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match=r"7 bytes needed, \d+ free\).*No space left"):
        store.write_directory(NAME, {"x": b"1234567", "y": full}, listed)
    assert not store.exists(NAME)
    assert leftovers(store.root) == []


def test_a_bug_in_a_writer_leaves_nothing_either(store: LocalStore) -> None:
    with pytest.raises(ZeroDivisionError):
        store.write_directory(NAME, {"x": lambda sink: sink.write(bytes(1 // 0))}, listed)
    assert leftovers(store.root) == []


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Writes beyond `size` bytes fail, as on a full disk (Python ignores SIGXFSZ, so they raise EFBIG)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "state.json"
    atomic_write(path, b"old")
    with file_size_limit(1000), pytest.raises(StorageError, match="5000 bytes needed"):
        atomic_write(path, bytes(5000))
    assert path.read_bytes() == b"old"
    atomic_write(path, b"new")
    assert path.read_bytes() == b"new"
    assert sha256_file(path) == sha256(b"new")
    assert [child.name for child in path.parent.iterdir()] == ["state.json"]


@pytest.fixture(params=["NFS", "no locks"])
def unlocking(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file system that locks nothing that is open for reading only, such as a directory, or nothing at all."""
    kind: str = request.param
    real = fcntl.flock

    def flock(file: int | TextIO, operation: int) -> None:
        descriptor = file if isinstance(file, int) else file.fileno()
        if kind == "no locks":
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        real(descriptor, operation)

    monkeypatch.setattr("fcntl.flock", flock)
    return kind


def test_where_locks_are_not_to_be_had_files_are_written_and_leftovers_go_when_old(
    store: LocalStore, tmp_path: Path, unlocking: str
) -> None:
    atomic_write(tmp_path / "file", b"x")
    during: list[Path] = []

    def sweeping(sink: ByteSink) -> None:
        """Another process of this machine sweeps while this one writes."""
        store.sweep_temporary()
        during.extend(leftovers(store.root))
        sink.write(b"y")

    store.write_directory("one", {"file": sweeping}, listed)
    assert (tmp_path / "file").read_bytes() == b"x" and store.exists("one")
    assert during and leftovers(store.root) == []
    left = store.root / temporary_name()
    left.mkdir()
    assert store.sweep_temporary() == [], unlocking
    old = time.time() - ABANDONED_AFTER_S - 1
    os.utime(left, (old, old))
    assert store.sweep_temporary() == [left]


def test_a_lock_that_cannot_be_had_where_one_is_needed_is_refused_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(_file: object, _operation: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(StorageError, match=r"locks files under .*Lustre: `flock`"), locked(tmp_path / "lock"):
        pass
    with pytest.raises(ConfigError, match=r"locks files under .*--runs-dir"), run_lock(tmp_path):
        pass


def test_a_writer_that_is_killed_leaves_only_what_a_sweep_removes(store: LocalStore) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from shared.files.store import LocalStore\n"
        "die = lambda path: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"LocalStore(Path(sys.argv[1])).write_directory({NAME!r}, {{'a': b'1', 'b': die}}, b'')\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(store.root)], timeout=60, check=False)
    assert killed.returncode == -9
    assert not store.exists(NAME)
    assert len(leftovers(store.root)) == 1
    assert len(store.sweep_temporary()) == 1
    assert store.write_directory(NAME, FILES, manifest_of(FILES)) == sha256(manifest_of(FILES))


def test_a_directory_is_set_aside_and_its_place_is_free(store: LocalStore) -> None:
    store.write_directory("batches/a/s00001", {"x": b"one"}, manifest_of({"x": b"one"}))
    raw = store.read_manifest("batches/a/s00001")
    assert store.set_aside("batches/a/s00001", "unannounced-3") == "batches/a/unannounced-3-s00001"
    assert not store.exists("batches/a/s00001")
    store.verify("batches/a/unannounced-3-s00001", raw)
    with pytest.raises(StorageError):
        store.set_aside("batches/a/s00001", "unannounced-3")
