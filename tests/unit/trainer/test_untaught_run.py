"""A run whose method asks no self-teacher: none is kept, and it goes on from what it has."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from services.trainer.app import build_learner
from services.trainer.config import TrainingConfig
from services.trainer.model.teacher import EmaTeacher, NoTeacher, TrustRegionTeacher
from services.trainer.ranks.group import Alone
from services.trainer.step.step import StepSettings
from services.trainer.trainer import StudentTrainer
from shared.config.baselines import GrpoSection
from shared.config.loading import load_settings
from shared.contracts.batches import BatchSealed
from shared.contracts.models import PreparedModel
from shared.errors import StorageError
from shared.files.store import LocalStore
from shared.modeling.loading import load_tokenizer
from tests.unit.trainer.ground import (
    BASE_SHA256,
    RUN,
    STUDENT,
    OpenFence,
    checkpoints_of,
    group_of,
    learner,
    rank_work,
    seal,
    settings,
    student_trainer,
)

GRPO = replace(settings(), method="grpo")
ANCHORED = replace(GRPO, grpo=GrpoSection(anchor=0.1))


def rewarded_steps(run_dir: Path, directory: Path, count: int) -> list[BatchSealed]:
    """Batches of steps 1 to `count`, of groups with a right answer and a wrong one."""
    tokenizer, made = load_tokenizer(directory, None), []
    for step in range(1, count + 1):
        group = group_of(tokenizer, f"{step}+1?", ["41", f"{step}2"])
        samples = tuple(each.model_copy(update={"reward": 1.0 - each.index}) for each in group.samples)
        made.append(seal(run_dir, [group.model_copy(update={"samples": samples})], step))
    return made


def applied(trainer: StudentTrainer, steps: list[BatchSealed]) -> StudentTrainer:
    """It goes on from what is there, up to the last of these steps."""
    trainer.restore()
    for sealed in steps[trainer.step :]:
        trainer.apply(sealed, OpenFence())
        trainer.publish()
    return trainer


def with_a_teacher(run_dir: Path, directory: Path, step: StepSettings) -> StudentTrainer:
    """A trainer that keeps one, whatever its method asks."""
    store, one = LocalStore(run_dir), learner(directory, step)
    one.teacher = EmaTeacher(one.model, 0.05)
    made = student_trainer(run_dir, directory, step, store)
    made._work = rank_work(one, directory, checkpoints_of(store), step, store)
    return made


def files_of(run_dir: Path, step: int) -> set[str]:
    return {path.name for path in (run_dir / "checkpoints" / STUDENT / f"k{step:06d}").iterdir()}


def checksums(trainer: StudentTrainer, steps: int) -> list[str]:
    return [trainer.done(step).checksum for step in range(1, steps + 1)]


@pytest.mark.parametrize(
    ("overrides", "kind"),
    [
        (("run.method=grpo",), NoTeacher),
        (("run.method=hacpo", "run.schedule=parallel"), NoTeacher),
        (("run.method=grpo", "grpo.anchor=0.1"), EmaTeacher),
        (("run.method=hacpo", "run.schedule=parallel", "grpo.anchor=0.1"), NoTeacher),
        (("run.method=sdpo",), EmaTeacher),
        (("run.method=sdpo", "loss.teacher=trust_region"), TrustRegionTeacher),
        (("run.method=opcod",), EmaTeacher),
    ],
)
def test_a_teacher_is_built_where_one_is_asked(tiny_dir: Path, overrides: tuple[str, ...], kind: type) -> None:
    chosen = load_settings(
        preset="smoke", overrides=("gate.mode=cognizance", "lora.first_layer=0", *overrides), environ={}
    )
    config = TrainingConfig(RUN, STUDENT, chosen, PreparedModel(path=tiny_dir, sha256=BASE_SHA256))
    one = build_learner(config, Alone())
    assert type(one.teacher) is kind
    assert bool(one.teacher.tensors()) == bool(one.state().teacher) == (kind is not NoTeacher)


def test_it_trains_as_beside_a_teacher_and_goes_on_with_or_without_one(tmp_path: Path, tiny_dir: Path) -> None:
    """Straight through, started again in between, and from a checkpoint that has one."""
    runs = [tmp_path / name for name in ("through", "again", "beside")]
    steps = [rewarded_steps(run_dir, tiny_dir, 3) for run_dir in runs]
    through = applied(student_trainer(runs[0], tiny_dir, GRPO), steps[0])
    applied(student_trainer(runs[1], tiny_dir, GRPO), steps[1][:2])
    assert "teacher.safetensors" not in files_of(runs[1], 2)
    again = applied(student_trainer(runs[1], tiny_dir, GRPO), steps[1])
    applied(with_a_teacher(runs[2], tiny_dir, GRPO), steps[2][:2])
    assert files_of(runs[2], 2) == files_of(runs[1], 2) | {"teacher.safetensors"}
    beside = applied(student_trainer(runs[2], tiny_dir, GRPO), steps[2])
    assert checksums(through, 3) == checksums(again, 3) == checksums(beside, 3)
    assert len(set(checksums(through, 3))) == 3
    assert files_of(runs[2], 3) == files_of(runs[0], 3)


def test_a_checkpoint_before_the_first_update_is_whole(tmp_path: Path, tiny_dir: Path) -> None:
    """Nothing to learn from: there are no moments yet, and an empty file of them."""
    group = group_of(load_tokenizer(tiny_dir, None), "1+1?", ["", ""])
    applied(student_trainer(tmp_path, tiny_dir, GRPO), [seal(tmp_path, [group], 1)])
    checkpoints = checkpoints_of(LocalStore(tmp_path))
    newest = checkpoints.newest()
    assert newest is not None and newest.whole and checkpoints.whole_steps(1) == [1]
    state = checkpoints.load(newest)
    assert not state.optimizer and not state.teacher and state.published


def test_a_method_that_asks_one_refuses_a_checkpoint_without(tmp_path: Path, tiny_dir: Path) -> None:
    applied(student_trainer(tmp_path, tiny_dir, GRPO), rewarded_steps(tmp_path, tiny_dir, 1))
    checkpoints = checkpoints_of(LocalStore(tmp_path))
    newest = checkpoints.newest()
    assert newest is not None
    with pytest.raises(StorageError, match="teacher in the checkpoint"):
        learner(tiny_dir, ANCHORED).load(checkpoints.load(newest))


def test_it_is_moved_and_begins_anew(tiny_dir: Path) -> None:
    one = learner(tiny_dir, GRPO)
    before = one.state().published
    one.move("cpu")
    one.begin_phase()
    one.restart()
    assert all(torch.equal(each, before[name]) for name, each in one.state().published.items())
