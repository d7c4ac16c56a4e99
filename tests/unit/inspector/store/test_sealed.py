"""Sealed batches as the inspector reads them: whole, verified, and nothing but them."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from services.inspector.store.records import Entry
from services.inspector.store.sealed import SealedBatches
from services.inspector.store.store import Store
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


def test_one_rollout_as_it_was_sealed_whatever_the_order_of_its_fields(tmp_path: Path) -> None:
    line = (seal(tmp_path / "as made") / "groups.jsonl").read_bytes()
    turned = json.dumps(dict(reversed(json.loads(line).items()))).encode() + b"\n"
    folder = seal(tmp_path / "turned", groups_sha256=hashlib.sha256(turned).hexdigest())
    (folder / "groups.jsonl").write_bytes(turned)
    found = [SealedBatches(tmp_path / run, RUN).sample("a", 1, "p1", 0) for run in ("as made", "turned")]
    assert found[0] == found[1]
    assert found[0].text == "whole response"


@pytest.mark.parametrize(
    ("problem_id", "index", "reason"), [("p9", 0, "no group of problem p9"), ("p1", 7, "no rollout 7 of problem p1")]
)
def test_a_rollout_that_the_batch_does_not_hold_is_named(
    tmp_path: Path, problem_id: str, index: int, reason: str
) -> None:
    seal(tmp_path)
    with pytest.raises(StorageError, match=reason):
        SealedBatches(tmp_path, RUN).sample("a", 1, problem_id, index)


def test_a_rollout_of_a_changed_file_or_another_batch_is_not_shown(tmp_path: Path) -> None:
    groups = seal(tmp_path) / "groups.jsonl"
    groups.write_bytes(groups.read_bytes().replace(b"alone", b"along"))
    with pytest.raises(StorageError, match="expected sha256"):
        SealedBatches(tmp_path, RUN).sample("a", 1, "p1", 0)
    seal(tmp_path / "other", run="other")
    with pytest.raises(StorageError, match="its manifest says"):
        SealedBatches(tmp_path / "other", RUN).sample("a", 1, "p1", 0)


def test_a_page_says_why_a_batch_is_not_shown(client: TestClient, store: Store, tmp_path: Path) -> None:
    folder = seal(tmp_path)
    store.append([Entry("1-0", ready(), SealedBatches(tmp_path, RUN).exchanges(ready()))], "1-0")
    assert "cannot be read" not in client.get("/feedback/1").text
    (folder / "groups.jsonl").write_bytes(b"{}\n")
    shown = client.get("/feedback/1")
    assert shown.status_code == 200
    assert "The sealed batch cannot be read here: " in shown.text
    assert "expected sha256" in shown.text


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
