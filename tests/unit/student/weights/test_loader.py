"""What may reach the engine: only files of the named version, unaltered, and only as the manifest says."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.student.weights.loader import VersionRefusedError, WeightLoader
from shared.files.store import LocalStore
from tests.fakes.engine import BASE_CHECKSUM, FakeEngine
from tests.fakes.stale_files import StaleFiles
from tests.fakes.student import RUN, publish_version, tensor_file

V1 = Path("weights") / "a" / "v000001"


def loader(run_dir: Path, engine: FakeEngine, base_model: str | None = None) -> WeightLoader:
    return WeightLoader(run_dir / "weights" / "a", run=RUN, student="a", engine=engine, base_model=base_model)


def test_v0_is_the_base_model_and_needs_no_directory(tmp_path: Path) -> None:
    engine = FakeEngine()
    assert loader(tmp_path, engine).load("a@v0") == BASE_CHECKSUM
    assert engine.loads == ["a@v0"]


def test_a_published_version_is_loaded_with_the_checksum_of_its_manifest(tmp_path: Path) -> None:
    engine, manifest = FakeEngine(), publish_version(tmp_path, 1)
    assert loader(tmp_path, engine, base_model=manifest.base_model).load("a@v1") == manifest.checksum
    assert engine.versions() == {"a@v1": manifest.checksum}


@pytest.mark.parametrize("hashes", [True, False])
def test_a_file_system_that_fails_for_a_moment_has_no_version_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hashes: bool
) -> None:
    engine, manifest, stale = FakeEngine(), publish_version(tmp_path, 1), StaleFiles(monkeypatch, tmp_path / V1)
    engine.hashes = hashes
    stale.fail(3)
    assert loader(tmp_path, engine).load("a@v1") == manifest.checksum
    stale.fail(4)
    with pytest.raises(VersionRefusedError, match="Stale file handle"):
        loader(tmp_path, FakeEngine()).load("a@v1")


def flip_a_bit(directory: Path) -> None:
    path = directory / "adapter_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def cut(directory: Path) -> None:
    path = directory / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])


def add_pickle(directory: Path) -> None:
    (directory / "pytorch_model.bin").write_bytes(b"\x80\x04.")


def drop_config(directory: Path) -> None:
    (directory / "adapter_config.json").unlink()


def link_weights(directory: Path) -> None:
    path = directory / "adapter_model.safetensors"
    path.rename(directory.parents[2] / "elsewhere.safetensors")
    path.symlink_to(directory.parents[2] / "elsewhere.safetensors")


def link_directory(directory: Path) -> None:
    directory.rename(directory.parents[2] / "elsewhere")
    directory.symlink_to(directory.parents[2] / "elsewhere", target_is_directory=True)


def break_manifest(directory: Path) -> None:
    (directory / "manifest.json").write_text("{}")


def remove(directory: Path) -> None:
    shutil.rmtree(directory)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (flip_a_bit, "sha256"),
        (cut, "bytes, found"),
        (add_pickle, "pytorch_model.bin"),
        (drop_config, "adapter_config.json"),
        (link_weights, "symbolic link"),
        (link_directory, "symbolic link"),
        (break_manifest, "schema"),
        (remove, "cannot read"),
    ],
)
def test_damaged_files_are_refused_before_the_engine_sees_them(
    tmp_path: Path, damage: Callable[[Path], None], reason: str
) -> None:
    publish_version(tmp_path, 1)
    damage(tmp_path / V1)
    engine = FakeEngine()
    with pytest.raises(VersionRefusedError, match=reason):
        loader(tmp_path, engine).load("a@v1")
    assert engine.loads == []


@pytest.mark.parametrize(
    "changes", [{"run": "other"}, {"student": "b"}, {"version": "a@v2"}], ids=lambda changes: next(iter(changes))
)
def test_a_manifest_of_something_else_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    publish_version(tmp_path, 1, **changes)
    engine = FakeEngine()
    with pytest.raises(VersionRefusedError, match="expected the manifest of"):
        loader(tmp_path, engine).load("a@v1")
    assert engine.loads == []


def test_an_adapter_of_another_base_model_is_refused(tmp_path: Path) -> None:
    publish_version(tmp_path, 1)
    engine = FakeEngine()
    with pytest.raises(VersionRefusedError, match="base model"):
        loader(tmp_path, engine, base_model="d" * 64).load("a@v1")
    assert engine.loads == []


@pytest.mark.parametrize("version", ["b@v1", "a@r1", "../a@v1", "a@v1/../v2", "hub/model", "/etc", "a@v-1", ""])
def test_only_names_of_our_versions_are_looked_up(tmp_path: Path, version: str) -> None:
    publish_version(tmp_path, 1)
    engine = FakeEngine()
    with pytest.raises(VersionRefusedError):
        loader(tmp_path, engine).load(version)
    assert engine.loads == []


def test_a_manifest_may_not_list_a_pickle(tmp_path: Path) -> None:
    publish_version(tmp_path / "right", 1)
    manifest = (tmp_path / "right" / V1 / "manifest.json").read_text().replace("config.json", "config.bin")
    files = {"adapter_model.safetensors": tensor_file(1), "adapter_config.bin": b"{}"}
    LocalStore(tmp_path / "weights" / "a").write_directory("v000001", files, manifest.encode())
    engine = FakeEngine()
    with pytest.raises(VersionRefusedError, match="only"):
        loader(tmp_path, engine).load("a@v1")
    assert engine.loads == []


def test_tensors_that_the_engine_hashes_are_not_hashed_before(tmp_path: Path) -> None:
    engine, manifest = FakeEngine(), publish_version(tmp_path, 1)
    engine.hashes = True
    flip_a_bit(tmp_path / V1)
    with pytest.raises(VersionRefusedError, match=f"the manifest names {manifest.checksum}"):
        loader(tmp_path, engine).load("a@v1")
    assert (engine.loads, engine.versions()) == (["a@v1"], {})


@pytest.mark.parametrize("damage", [cut, add_pickle, drop_config, link_weights, link_directory, break_manifest, remove])
def test_everything_else_is_checked_before_an_engine_that_hashes_sees_it(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    engine = FakeEngine()
    engine.hashes = True
    publish_version(tmp_path, 1)
    damage(tmp_path / V1)
    with pytest.raises(VersionRefusedError):
        loader(tmp_path, engine).load("a@v1")
    assert engine.loads == []


def test_tensors_that_came_out_different_are_unloaded_again(tmp_path: Path) -> None:
    publish_version(tmp_path, 1)
    engine = FakeEngine()
    engine.lies_about_checksum = True
    with pytest.raises(VersionRefusedError, match="checksum"):
        loader(tmp_path, engine).load("a@v1")
    assert engine.versions() == {}
