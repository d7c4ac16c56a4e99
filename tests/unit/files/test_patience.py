"""A file system that fails for a moment is asked again; what says something about a file is believed at once."""

import errno
import hashlib
import json
from pathlib import Path

import pytest

from shared.errors import StorageError
from shared.files.store import READ_ATTEMPTS, LocalStore
from tests.fakes.stale_files import StaleFiles

NAME = "weights/a/v000017"
FILE = "adapter_config.json"


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    store, entry = LocalStore(tmp_path), {"name": FILE, "sha256": hashlib.sha256(b"{}").hexdigest(), "bytes": 2}
    store.write_directory(NAME, {FILE: b"{}"}, json.dumps({"files": [entry]}).encode())
    return store


@pytest.fixture
def stale(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> StaleFiles:
    return StaleFiles(monkeypatch, store.root)


@pytest.mark.parametrize("error", [errno.ESTALE, errno.EIO, errno.ETIMEDOUT])
def test_what_fails_for_a_moment_is_asked_again(store: LocalStore, stale: StaleFiles, error: int) -> None:
    stale.fail(READ_ATTEMPTS - 1, error)
    store.verify(NAME, store.read_manifest(NAME))
    assert stale.tries[FILE] == READ_ATTEMPTS
    stale.fail(READ_ATTEMPTS - 1, error)
    assert store.members("weights/a") == ["v000017"]


def test_what_goes_on_failing_is_an_error_and_no_empty_directory(store: LocalStore, stale: StaleFiles) -> None:
    stale.fail(READ_ATTEMPTS)
    with pytest.raises(StorageError, match="cannot read"):
        store.read_manifest(NAME)
    with pytest.raises(StorageError, match="cannot read"):
        store.members("weights/a")


def test_what_is_not_there_or_is_another_is_asked_for_once(store: LocalStore, stale: StaleFiles) -> None:
    with pytest.raises(StorageError, match="cannot read"):
        store.read_manifest("weights/a/v000018")
    with pytest.raises(StorageError, match="sha256"):
        store.open_verified(NAME, FILE, "0" * 64)
    assert stale.tries == {"manifest.json": 1, FILE: 1}
    assert store.members("weights/b") == []
