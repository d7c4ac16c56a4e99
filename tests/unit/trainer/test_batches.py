"""Reading sealed batches: nothing unverified is used."""

from pathlib import Path

import pytest

from services.trainer.batches import read_batch
from shared.contracts.batches import BatchSealed
from shared.errors import StorageError
from shared.files.batches import batch_directory, batch_manifest, read_groups, sealed_steps
from shared.files.store import LocalStore
from shared.modeling.loading import load_tokenizer
from tests.fakes.stale_files import StaleFiles
from tests.unit.trainer.ground import RUN, group_of, seal, seal_streamed


@pytest.fixture
def sealed(tmp_path: Path, tiny_dir: Path) -> BatchSealed:
    return seal(tmp_path, [group_of(load_tokenizer(tiny_dir, None), "2+2?", ["4", "5"])], 1)


def test_a_sealed_batch_is_read_whole(tmp_path: Path, sealed: BatchSealed) -> None:
    batch = read_batch(LocalStore(tmp_path), sealed, RUN)
    assert [sample.text for sample in batch.groups[0].samples] == ["4", "5"]
    assert batch.sha256 == sealed.sha256


def test_a_file_system_that_fails_for_a_moment_is_asked_again(
    tmp_path: Path, tiny_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed, groups = seal_streamed(tmp_path, tiny_dir, 1, [2, 0, 1])
    stale = StaleFiles(monkeypatch, tmp_path)
    stale.fail(3)
    assert len(read_batch(LocalStore(tmp_path), sealed, RUN).groups) == len(groups)
    stale.fail(3)
    assert sealed_steps(tmp_path, "a") == [1]


def test_one_that_fails_in_the_middle_of_a_batch_is_asked_from_there_on(
    tmp_path: Path, tiny_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seal_streamed(tmp_path, tiny_dir, 1, [2, 0, 1])
    store, directory, stale = LocalStore(tmp_path), batch_directory("a", 1), StaleFiles(monkeypatch, tmp_path)
    manifest = batch_manifest(store.read_manifest(directory), directory, run=RUN, student="a", step=1)
    groups, found = read_groups(store, directory, manifest), []
    for group in groups:
        found.append(group.problem_id)
        stale.fail(2)
    assert found == list(dict.fromkeys(found))
    assert len(found) == manifest.groups


@pytest.mark.parametrize("file", ["groups.jsonl", "manifest.json"])
def test_an_altered_file_is_refused(tmp_path: Path, sealed: BatchSealed, file: str) -> None:
    path = tmp_path / sealed.uri / file
    path.write_bytes(path.read_bytes().replace(b"physics", b"physicz").replace(b'"b"', b'"c"'))
    with pytest.raises(StorageError, match="sha256"):
        read_batch(LocalStore(tmp_path), sealed, RUN)


@pytest.mark.parametrize(
    "changes",
    [{"step": 2, "base_version": "a@v1"}, {"student": "b", "base_version": "b@v0"}, {"base_version": "a@v3"}],
)
def test_a_message_about_another_batch_is_refused(
    tmp_path: Path, sealed: BatchSealed, changes: dict[str, object]
) -> None:
    with pytest.raises(StorageError, match="expected a batch of"):
        read_batch(LocalStore(tmp_path), sealed.model_copy(update=changes), RUN)


def test_another_run_is_refused(tmp_path: Path, sealed: BatchSealed) -> None:
    with pytest.raises(StorageError, match="another"):
        read_batch(LocalStore(tmp_path), sealed, "another")


@pytest.mark.parametrize("uri", ["../x", "/etc", "batches/a/s00009", "~/batches"])
def test_names_outside_or_absent_are_refused(tmp_path: Path, sealed: BatchSealed, uri: str) -> None:
    with pytest.raises(StorageError):
        read_batch(LocalStore(tmp_path), sealed.model_copy(update={"uri": uri}), RUN)


def test_a_batch_with_fewer_samples_than_it_says_is_refused(tmp_path: Path, tiny_dir: Path) -> None:
    group = group_of(load_tokenizer(tiny_dir, None), "2+2?", ["4"])
    with pytest.raises(StorageError, match="says 1 groups with 6 samples"):
        read_batch(LocalStore(tmp_path), seal(tmp_path, [group], 1, samples=6), RUN)


def test_a_batch_s_order_is_by_position(tmp_path: Path, tiny_dir: Path) -> None:
    sealed, _ = seal_streamed(tmp_path, tiny_dir, 1, [2, 0, 1])
    assert read_batch(LocalStore(tmp_path), sealed, RUN).order == [2, 0, 1]


def test_an_order_of_other_groups_is_refused(tmp_path: Path, tiny_dir: Path) -> None:
    short, _ = seal_streamed(tmp_path / "short", tiny_dir, 1, [1, 0])
    order = read_batch(LocalStore(tmp_path / "short"), short, RUN).manifest.order
    groups = [group_of(load_tokenizer(tiny_dir, None), f"1+{at}?", ["4"]) for at in range(3)]
    with pytest.raises(StorageError, match=r"the order of .* has the groups"):
        read_batch(LocalStore(tmp_path), seal(tmp_path, groups, 1, order=order), RUN)
