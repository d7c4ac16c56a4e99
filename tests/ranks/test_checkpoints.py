"""What ranks leave on disk: any number of ranks goes on from it, and a version is the same kind of file."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from services.trainer.checkpoint import CheckpointManifest
from shared.contracts.weights import WeightsManifest
from shared.modeling.checksums import file_checksum
from shared.modeling.versions import version_tensors
from shared.obs.faults import ALLOWED, FAULT, MARKS
from tests.ranks.part import KINDS, STEPS
from tests.ranks.started import run_ranks
from tests.unit.trainer.ground import OpenFence, seal_steps, student_trainer

STEPS_IN_ALL = 3


def apply(ranks: int, run_dir: Path, tiny_dir: Path, kind: str, until: int, name: str = "two-updates") -> None:
    """As processes that are started, and end after step `until`."""
    if ranks > 1:
        run_ranks(ranks, run_dir, "apply", str(run_dir), str(tiny_dir), kind, str(until), name)
        return
    trainer = student_trainer(run_dir, tiny_dir, STEPS[name], full=KINDS[kind])
    trainer.restore()
    for sealed in seal_steps(run_dir, tiny_dir, until)[trainer.step :]:
        trainer.apply(sealed, OpenFence())
        trainer.publish()


def version(run_dir: Path, step: int) -> Path:
    return run_dir / "weights" / "a" / f"v{step:06d}"


def manifest_of(directory: Path) -> WeightsManifest:
    return WeightsManifest.model_validate_json((directory / "manifest.json").read_bytes())


@pytest.mark.parametrize("kind", ["full", "rounded", "lora"])
def test_a_run_goes_on_with_another_number_of_ranks(tmp_path: Path, tiny_dir: Path, kind: str) -> None:
    """One, two, one against one all the time: a state that was read wrong shows in the next version."""
    alone, changing = tmp_path / "alone", tmp_path / "changing"
    apply(1, alone, tiny_dir, kind, STEPS_IN_ALL)
    for step, ranks in enumerate((1, 2, 1), start=1):
        apply(ranks, changing, tiny_dir, kind, step)
    for step in range(1, STEPS_IN_ALL + 1):
        directories = version(alone, step), version(changing, step)
        wanted, found = (version_tensors(each, manifest_of(each)) for each in directories)
        assert wanted.keys() == found.keys()
        for name, each in wanted.items():
            assert found[name].dtype == each.dtype
            torch.testing.assert_close(found[name], each, rtol=1e-3, atol=4e-3 if kind == "rounded" else 1e-5)
    assert (version(alone, 1) / "manifest.json").read_bytes() != b""
    assert manifest_of(version(alone, 1)).checksum == manifest_of(version(changing, 1)).checksum


def test_ranks_that_begin_alike_leave_the_same_bits_and_nothing_but_safetensors(
    tmp_path: Path, tiny_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the disk of one is full for a moment: all of them write again."""
    apply(2, tmp_path / "one", tiny_dir, "rounded", 2)
    full = {FAULT: "trainer.rank-before-seal:enospc:2", ALLOWED: "1", "OPCOD_RUN_DIR": str(tmp_path / "other")}
    for name, value in full.items():
        monkeypatch.setenv(name, value)
    apply(2, tmp_path / "other", tiny_dir, "rounded", 2)
    assert (tmp_path / "other" / MARKS / "trainer.rank-before-seal").exists()
    one, other = (version(tmp_path / name, 2) for name in ("one", "other"))
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    assert file_checksum(one / "model.safetensors") == manifest_of(one).checksum

    directory = tmp_path / "one" / "checkpoints" / "a" / "k000002"
    manifest = CheckpointManifest.model_validate_json((directory / "manifest.json").read_bytes())
    assert manifest.shards == 2 and manifest.whole
    states = {
        f"{part}-0000{rank}-of-00002.safetensors" for part in ("exact", "teacher", "optimizer") for rank in (1, 2)
    }
    listed = {entry.name for entry in manifest.files}
    assert states <= listed
    assert listed == {path.name for path in directory.iterdir()} - {"manifest.json"}
    for path in directory.iterdir():
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as opened:
                assert list(opened.keys())
        else:
            assert path.read_text(encoding="utf-8")


def test_ranks_without_a_teacher_go_on_from_their_shards(tmp_path: Path, tiny_dir: Path) -> None:
    run_dir = tmp_path / "run"
    for step, ranks in enumerate((2, 1, 2), start=1):
        apply(ranks, run_dir, tiny_dir, "full", step, "grpo-alone")
        directory = run_dir / "checkpoints" / "a" / f"k{step:06d}"
        manifest = CheckpointManifest.model_validate_json((directory / "manifest.json").read_bytes())
        assert manifest.whole and manifest.step == step
        assert not list(directory.glob("teacher*"))


def test_a_shard_that_is_gone_is_no_checkpoint(tmp_path: Path, tiny_dir: Path) -> None:
    """The one before it is taken, and the step is made again."""
    run_dir = tmp_path / "run"
    apply(2, run_dir, tiny_dir, "full", 2)
    before = manifest_of(version(run_dir, 2)).checksum
    (run_dir / "checkpoints" / "a" / "k000002" / "teacher-00002-of-00002.safetensors").unlink()
    (run_dir / "weights" / "a" / "v000002").rename(tmp_path / "published")
    apply(2, run_dir, tiny_dir, "full", 2)
    assert manifest_of(version(run_dir, 2)).checksum == before
    assert (run_dir / "checkpoints" / "a" / "k000002.broken").is_dir()
