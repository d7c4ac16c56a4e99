import hashlib
from pathlib import Path
from typing import Any

import pytest

from services.inspector.sealed import SealedBatches
from shared.errors import StorageError
from tests.unit.inspector.told import RUN, ready, seal


def test_only_rollouts_with_a_tutor_are_exchanges(tmp_path: Path) -> None:
    seal(tmp_path)
    [exchange] = SealedBatches(tmp_path, RUN).exchanges(ready())
    assert (exchange.sample, exchange.response, exchange.correct, exchange.sealed) == (
        0,
        "whole response",
        True,
        True,
    )
    assert exchange.removed == ("final answer",)


def test_a_changed_file_is_not_read(tmp_path: Path) -> None:
    groups = seal(tmp_path) / "groups.jsonl"
    groups.write_bytes(groups.read_bytes().replace(b"alone", b"along"))
    with pytest.raises(StorageError, match="expected sha256"):
        SealedBatches(tmp_path, RUN).exchanges(ready())


@pytest.mark.parametrize("changes", [{"run": "other"}, {"student": "b"}])
def test_the_batch_of_something_else_is_not_read(tmp_path: Path, changes: dict[str, Any]) -> None:
    seal(tmp_path, **changes)
    with pytest.raises(StorageError, match="its manifest says"):
        SealedBatches(tmp_path, RUN).exchanges(ready())


def test_the_batch_of_another_step_is_not_read(tmp_path: Path) -> None:
    seal(tmp_path, step=1)
    with pytest.raises(StorageError, match="its manifest says"):
        SealedBatches(tmp_path, RUN).exchanges(ready(step=2, uri="batches/a/s00001"))


@pytest.mark.parametrize("line", [b"{}\n", b"\xff\xfe\n", b"not json\n"])
def test_a_line_that_is_no_group_is_an_error(tmp_path: Path, line: bytes) -> None:
    folder = seal(tmp_path / "other", groups_sha256=hashlib.sha256(line).hexdigest())
    (folder / "groups.jsonl").write_bytes(line)
    with pytest.raises(StorageError, match="cannot read the sealed batch"):
        SealedBatches(tmp_path / "other", RUN).exchanges(ready())


@pytest.mark.parametrize(
    "uri",
    [
        "../batches/a/s00001",
        "batches/../../outside/batches/a/s00001",
        "/etc",
        "weights/a",
        "~",
        "batches/a/s0009",
        "\x00",
    ],
)
def test_a_path_outside_the_batches_is_refused(tmp_path: Path, uri: str) -> None:
    seal(tmp_path / "run")
    seal(tmp_path / "outside")
    (tmp_path / "run" / "weights" / "a").mkdir(parents=True)
    with pytest.raises(StorageError, match="batch"):
        SealedBatches(tmp_path / "run", RUN).exchanges(ready(uri=uri))


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    seal(tmp_path / "outside")
    (tmp_path / "run" / "batches").mkdir(parents=True)
    (tmp_path / "run" / "batches" / "a").symlink_to(tmp_path / "outside" / "batches" / "a")
    with pytest.raises(StorageError, match="without links"):
        SealedBatches(tmp_path / "run", RUN).exchanges(ready())


def test_a_linked_file_is_not_followed(tmp_path: Path) -> None:
    folder = seal(tmp_path)
    (folder / "groups.jsonl").rename(tmp_path / "groups.jsonl")
    (folder / "groups.jsonl").symlink_to(tmp_path / "groups.jsonl")
    with pytest.raises(StorageError, match="link"):
        SealedBatches(tmp_path, RUN).exchanges(ready())


def test_a_link_to_another_batch_is_not_followed(tmp_path: Path) -> None:
    folder = seal(tmp_path)
    (folder.parent / "again").symlink_to(folder)
    with pytest.raises(StorageError, match="without links"):
        SealedBatches(tmp_path, RUN).exchanges(ready(uri="batches/a/again"))
