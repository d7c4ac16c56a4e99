"""Checkpoints: whole or absent, two kept, fenced, and of this run and model only."""

import errno
import shutil
from pathlib import Path

import pytest
import torch

from services.trainer.checkpoint import CheckpointManifest
from services.trainer.trainer import StudentTrainer
from shared.errors import FencedError, ModelError, ReadError, StorageError
from shared.files.store import LocalStore
from tests.fakes.stale_files import StaleFiles
from tests.unit.trainer.ground import OpenFence, checkpoints_of, seal_steps, student_trainer


@pytest.fixture
def trained(tmp_path: Path, tiny_dir: Path) -> StudentTrainer:
    """Three steps done, under token 5."""
    trainer = student_trainer(tmp_path, tiny_dir)
    trainer.restore()
    for sealed in seal_steps(tmp_path, tiny_dir, 3):
        trainer.apply(sealed, OpenFence(token=5))
    return trainer


def newest(run_dir: Path) -> CheckpointManifest:
    manifest = checkpoints_of(LocalStore(run_dir)).newest()
    assert manifest is not None
    return manifest


def test_a_new_run_has_none(tmp_path: Path) -> None:
    assert checkpoints_of(LocalStore(tmp_path)).newest() is None
    assert checkpoints_of(LocalStore(tmp_path)).highest_token() == 0


@pytest.mark.usefixtures("trained")
def test_the_newest_two_stay_and_say_what_was_done(tmp_path: Path) -> None:
    assert sorted(path.name for path in (tmp_path / "checkpoints" / "a").iterdir()) == ["k000002", "k000003"]
    manifest = newest(tmp_path)
    assert (manifest.step, manifest.token, manifest.phase_updates) == (3, 5, 3)
    assert [done.step for done in manifest.done] == [1, 2, 3]
    assert manifest.weights.version == "a@v3"


def test_the_learner_comes_back_bit_for_bit(trained: StudentTrainer, tmp_path: Path) -> None:
    state = checkpoints_of(LocalStore(tmp_path)).load(newest(tmp_path))
    live = trained._work.learner.state()
    for mine, theirs in (
        (live.published, state.published),
        (live.teacher, state.teacher),
        (live.optimizer, state.optimizer),
    ):
        assert mine.keys() == theirs.keys() != set()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize("file", ["manifest.json", "teacher.safetensors", "optimizer.safetensors"])
@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_a_broken_one_is_set_aside_for_the_one_before(tmp_path: Path, file: str, damage: str) -> None:
    path = tmp_path / "checkpoints" / "a" / "k000003" / file
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(data[: len(data) // 2] if damage == "cut" else data[:-9] + b"\xff" + data[-8:])
    assert newest(tmp_path).step == 2
    assert (file, damage) == ("manifest.json", "gone") or (tmp_path / "checkpoints/a/k000003.broken").is_dir()


@pytest.mark.usefixtures("trained")
def test_a_file_system_that_does_not_answer_for_a_moment_breaks_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    StaleFiles(monkeypatch, tmp_path / "checkpoints" / "a" / "k000003").fail(3)
    assert newest(tmp_path).step == 3


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize("error", [errno.ESTALE, errno.EIO, errno.EACCES])
def test_nor_does_one_that_never_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    stale = StaleFiles(monkeypatch, tmp_path / "checkpoints" / "a" / "k000003")
    stale.fail(99, error)
    with pytest.raises(ReadError, match="k000003"):
        newest(tmp_path)
    # The token of what cannot be read is not taken for a lower one.
    with pytest.raises(ReadError, match="k000003"):
        checkpoints_of(LocalStore(tmp_path)).highest_token()
    stale.fail(0)
    assert newest(tmp_path).step == 3


@pytest.mark.usefixtures("trained")
def test_nor_does_a_moment_take_a_trainer_further_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stale, checkpoints = StaleFiles(monkeypatch, tmp_path), checkpoints_of(LocalStore(tmp_path))
    stale.fail(3, errno.EIO)
    assert checkpoints.whole_steps(3) == [3, 2]
    stale.fail(3, errno.EIO)
    assert checkpoints.load(checkpoints.read(3)).phase_updates == 3


@pytest.mark.usefixtures("trained")
def test_all_broken_is_an_error_not_a_new_start(tmp_path: Path) -> None:
    for path in (tmp_path / "checkpoints" / "a").glob("k*/teacher.safetensors"):
        path.write_bytes(b"")
    # Nor is it a new start for the next process, which finds them renamed.
    for _ in range(2):
        with pytest.raises(StorageError, match=r"every checkpoint .*k000002\.broken, k000003\.broken"):
            checkpoints_of(LocalStore(tmp_path)).newest()


def test_a_published_version_without_a_checkpoint_is_no_new_run(trained: StudentTrainer, tmp_path: Path) -> None:
    trained.publish()
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(StorageError, match="v000003"):
        checkpoints_of(LocalStore(tmp_path)).newest()


@pytest.mark.usefixtures("trained")
def test_another_base_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="begun with"):
        checkpoints_of(LocalStore(tmp_path), base_sha256="c" * 64).newest()


def test_a_stale_token_writes_nothing(trained: StudentTrainer, tmp_path: Path, tiny_dir: Path) -> None:
    assert trained.step == 3
    late = student_trainer(tmp_path, tiny_dir)
    late.restore()
    sealed = seal_steps(tmp_path, tiny_dir, 4)[3]
    with pytest.raises(FencedError, match="token 5"):
        late.apply(sealed, OpenFence(token=4))
    assert (late.step, newest(tmp_path).step) == (3, 3)
    late.apply(sealed, OpenFence(token=6))
    assert newest(tmp_path).token == 6
