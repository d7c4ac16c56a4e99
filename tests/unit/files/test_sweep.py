"""What writers that died left behind is removed, and nothing else."""

import fcntl
import os
import time
from pathlib import Path

import pytest

from shared.files.durable import ABANDONED_AFTER_S, atomic_write, temporary_name
from shared.files.store import LocalStore


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


def test_a_sweep_removes_what_the_dead_left_and_spares_the_living(store: LocalStore) -> None:
    parent = store.root / "weights" / "a"
    dead, living, file = (parent / temporary_name() for _ in range(3))
    for folder in (dead, living):
        folder.mkdir(parents=True)
        (folder / "half").write_bytes(b"x")
    file.write_bytes(b"x")
    descriptor = os.open(living, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    assert store.sweep_temporary() == sorted([dead, file])
    os.close(descriptor)
    assert store.sweep_temporary() == [living]
    assert store.sweep_temporary() == []


def test_a_sweep_goes_on_where_others_remove_what_it_looks_at(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, dead = store.root / "checkpoints" / "gone", store.root / "weights" / temporary_name()
    for folder in (gone, dead):
        folder.mkdir(parents=True)
    scanned = os.scandir

    def scandir(path: str | Path | int) -> object:
        if path == str(gone):
            gone.rmdir()
        return scanned(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert store.sweep_temporary() == [dead]
    assert not gone.exists()


def test_a_file_that_a_sweep_takes_before_it_is_locked_is_made_again(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All services of a run begin at once: some sweep, and some write where they listen."""
    store.root.mkdir(exist_ok=True)
    swept: list[list[Path]] = []
    lock = fcntl.flock

    def flock(descriptor: int, how: int) -> None:
        if how == fcntl.LOCK_EX and len(swept) < 2:
            swept.append(store.sweep_temporary())
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    atomic_write(store.root / "student-b.url", b"http://")
    assert [len(each) for each in swept] == [1, 1]
    assert [path.name for path in store.root.iterdir()] == ["student-b.url"]


def test_what_another_machine_writes_is_spared_until_it_is_old(store: LocalStore) -> None:
    """Its lock cannot be seen from here: on a network file system a directory's stays on the machine that took it."""
    parent = store.root / "weights" / "a"
    young, old = (parent / temporary_name("other") for _ in range(2))
    for folder in (young, old):
        folder.mkdir(parents=True)
    yesterday = time.time() - ABANDONED_AFTER_S - 60
    os.utime(old, (yesterday, yesterday))
    assert store.sweep_temporary() == [old]
