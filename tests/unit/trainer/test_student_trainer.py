"""Steps, checkpoints and versions together: applied once, whenever it is killed, and taken back when refused."""

import hashlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch

from services.trainer import work as rank_work
from services.trainer.lease import LeaseFence
from services.trainer.step.step import StepSettings
from services.trainer.trainer import StepRefusedError, StudentTrainer
from shared.bus.keys import trainer_lease
from shared.contracts.weights import FileEntry, WeightsManifest
from shared.errors import FencedError, StorageError, UnavailableError
from shared.files.store import Content, LocalStore, Manifest
from shared.modeling.checksums import file_checksum
from shared.modeling.loading import load_tokenizer
from tests.fakes.bus.memory import MemoryBus
from tests.unit.trainer.ground import STUDENT, OpenFence, group_of, seal, seal_steps, settings, student_trainer

STEPS = 3


class KilledError(BaseException):
    """Stands for SIGKILL: no handler of the trainer's runs on it."""


class FailingStore(LocalStore):
    """Fails before or after writing a directory whose name starts with `at`, `times` times."""

    def __init__(self, root: Path, at: str, error: BaseException, *, after: bool = False, times: int = 1) -> None:
        super().__init__(root)
        self.at, self.error, self.after, self.times = at, error, after, times

    def write_directory(
        self,
        name: str,
        files: Mapping[str, Content],
        manifest: Manifest,
        beside: Callable[[Path], Sequence[FileEntry]] = lambda _: (),
    ) -> str:
        fails = name.startswith(self.at) and self.times > 0
        self.times -= fails
        if fails and not self.after:
            raise self.error
        sha256 = super().write_directory(name, files, manifest, beside)
        if fails:
            raise self.error
        return sha256


def work(trainer: StudentTrainer, run_dir: Path, tiny_dir: Path) -> None:
    """What a process does from its start on: go on from disk, publish, apply what is left."""
    trainer.restore()
    if trainer.step:
        trainer.publish()
    for sealed in seal_steps(run_dir, tiny_dir, STEPS)[trainer.step :]:
        trainer.apply(sealed, OpenFence())
        trainer.publish()


def published(run_dir: Path) -> dict[str, str]:
    """sha256 of everything under weights/."""
    files = sorted(path for path in (run_dir / "weights").rglob("*") if path.is_file())
    return {str(path.relative_to(run_dir)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tiny_dir: Path) -> dict[str, str]:
    run_dir = tmp_path_factory.mktemp("undisturbed")
    work(student_trainer(run_dir, tiny_dir, steady()), run_dir, tiny_dir)
    return published(run_dir)


def steady() -> StepSettings:
    return settings(mini_batches=2, ema_rate=0.1)


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize(
    ("at", "after"),
    [("checkpoints/a/k", False), ("checkpoints/a/k", True), ("weights/a/v", False), ("weights/a/v", True)],
)
def test_killed_at_any_point_the_versions_are_those_of_an_undisturbed_run(
    tmp_path: Path, tiny_dir: Path, undisturbed: dict[str, str], at: str, after: bool, step: int
) -> None:
    store = FailingStore(tmp_path, f"{at}{step:06d}", KilledError(), after=after)
    with pytest.raises(KilledError):
        work(student_trainer(tmp_path, tiny_dir, steady(), store), tmp_path, tiny_dir)
    again = student_trainer(tmp_path, tiny_dir, steady())
    again.restore()
    assert again.step == (step - 1 if at.startswith("checkpoints") and not after else step)
    work(student_trainer(tmp_path, tiny_dir, steady()), tmp_path, tiny_dir)
    assert published(tmp_path) == undisturbed


def test_each_step_gives_back_what_its_passes_freed(
    tmp_path: Path, tiny_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []
    monkeypatch.setattr(rank_work, "release_freed", lambda: given.append(1))
    work(student_trainer(tmp_path, tiny_dir, steady()), tmp_path, tiny_dir)
    assert len(given) == STEPS


def test_a_version_says_what_it_is(tmp_path: Path, tiny_dir: Path) -> None:
    trainer = student_trainer(tmp_path, tiny_dir)
    work(trainer, tmp_path, tiny_dir)
    directory = tmp_path / "weights" / "a" / "v000002"
    manifest = WeightsManifest.model_validate_json((directory / "manifest.json").read_bytes())
    assert (manifest.version, manifest.parent, manifest.step) == ("a@v2", "a@v1", 2)
    assert file_checksum(directory / "adapter_model.safetensors") == manifest.checksum == trainer.done(2).checksum
    assert len(manifest.probe) == 3
    assert manifest.batch_sha256 == trainer.done(2).batch_sha256
    late = trainer.done(3).metrics.seconds
    assert {"load", "teacher", "student", "optimizer", "checkpoint", "publish"} <= late.keys()


def test_reports_survive_a_restart_as_they_were(tmp_path: Path, tiny_dir: Path) -> None:
    trainer = student_trainer(tmp_path, tiny_dir)
    work(trainer, tmp_path, tiny_dir)
    again = student_trainer(tmp_path, tiny_dir)
    again.restore()
    assert [again.done(step) for step in (1, 2, 3)] == [trainer.done(step) for step in (1, 2, 3)]


@pytest.mark.parametrize("mode", ["reset", "carry"])
def test_a_phase_starts_fresh_or_goes_on(tmp_path: Path, tiny_dir: Path, mode: str) -> None:
    trainer = student_trainer(tmp_path, tiny_dir, settings(at_phase_start=mode))
    trainer.restore()
    first, _ = seal_steps(tmp_path, tiny_dir, 2)
    trainer.apply(first, OpenFence())
    (tmp_path / "batches" / "a" / "s00002").rename(tmp_path / "old")
    group = group_of(load_tokenizer(tiny_dir, None), "3+3?", ["41", "6"])
    trainer.apply(seal(tmp_path, [group], 2, phase_start=True), OpenFence())
    assert trainer.checkpoint is not None
    assert trainer.checkpoint.phase_updates == {"reset": 1, "carry": 2}[mode]


def test_a_refused_batch_leaves_no_trace(tmp_path: Path, tiny_dir: Path) -> None:
    trainer = student_trainer(tmp_path, tiny_dir)
    trainer.restore()
    first, second = seal_steps(tmp_path, tiny_dir, 2)
    trainer.apply(first, OpenFence())
    before = trainer._work.learner.state()
    path = tmp_path / second.uri / "groups.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(StepRefusedError, match="sha256"):
        trainer.apply(second, OpenFence())
    assert trainer.step == 1
    after = trainer._work.learner.state()
    assert all(torch.equal(each, after.published[name]) for name, each in before.published.items())
    path.write_bytes(whole)
    trainer.apply(second, OpenFence())
    assert trainer.step == 2


@pytest.mark.parametrize("damage", ["learning rate", "base weights"])
def test_what_is_not_finite_is_refused_and_never_published(tmp_path: Path, tiny_dir: Path, damage: str) -> None:
    step = settings(max_skipped_updates=1, learning_rate=1e37 if damage == "learning rate" else 1e-3)
    trainer = student_trainer(tmp_path, tiny_dir, step)
    trainer.restore()
    if damage == "base weights":
        trainer._work.learner.model.network.get_base_model().get_parameter("model.norm.weight").data.fill_(float("nan"))
    [sealed] = seal_steps(tmp_path, tiny_dir, 1)
    with pytest.raises(StepRefusedError, match="finite"):
        trainer.apply(sealed, OpenFence())
    assert trainer.step == 0
    assert not (tmp_path / "weights").exists()
    assert not (tmp_path / "checkpoints").exists()
    assert all(bool(each.isfinite().all()) for each in trainer._work.learner.state().published.values())


def test_a_full_disk_is_tried_again_and_then_given_up(tmp_path: Path, tiny_dir: Path) -> None:
    [sealed] = seal_steps(tmp_path, tiny_dir, 1)
    full = StorageError("no space left")
    store = FailingStore(tmp_path, "checkpoints/", full, times=2)
    trainer = student_trainer(tmp_path, tiny_dir, store=store)
    trainer._stopping.clear()
    trainer.restore()
    trainer.apply(sealed, OpenFence())
    assert trainer.step == 1

    other = student_trainer(
        tmp_path / "b", tiny_dir, store=FailingStore(tmp_path / "b", "checkpoints/", full, times=99)
    )
    other.restore()
    [sealed] = seal_steps(tmp_path / "b", tiny_dir, 1)
    with pytest.raises(StorageError, match="no space"):
        other.apply(sealed, OpenFence())
    assert other.step == 0


def leased(bus: MemoryBus, ttl_s: float, *, waits: bool = False) -> LeaseFence:
    fence = LeaseFence(bus, STUDENT, "t0", ttl_s=ttl_s, waits=waits)
    assert fence.try_acquire(0)
    return fence


class SilentBus(MemoryBus):
    """Gives no answer to the first `missed` renewals of a lease that the thread of `silent_to` asks for."""

    def __init__(self, missed: int) -> None:
        super().__init__(lease_s=60)
        self.missed, self.silent_to = missed, threading.get_ident()

    def renew_lease(self, name: str, holder: str, token: int, *, ttl_s: float) -> bool:
        if self.missed and threading.get_ident() == self.silent_to:
            self.missed -= 1
            raise UnavailableError("no answer")
        return super().renew_lease(name, holder, token, ttl_s=ttl_s)


def test_a_finished_step_waits_for_the_server_and_is_kept(
    tmp_path: Path, tiny_dir: Path, undisturbed: dict[str, str]
) -> None:
    trainer, bus = student_trainer(tmp_path, tiny_dir, steady()), SilentBus(missed=2)
    trainer._stopping.clear()
    trainer.restore()
    fence = leased(bus, ttl_s=60)
    [sealed] = seal_steps(tmp_path, tiny_dir, 1)
    trainer.apply(sealed, fence)
    assert (bus.missed, trainer.step) == (0, 1)
    trainer.publish()
    assert published(tmp_path).items() <= undisturbed.items()
    fence.release()


def test_a_finished_step_is_not_written_once_its_lease_has_run_out(tmp_path: Path, tiny_dir: Path) -> None:
    trainer, bus = student_trainer(tmp_path, tiny_dir), MemoryBus(lease_s=60)
    trainer._stopping.clear()
    trainer.restore()
    fence = leased(bus, ttl_s=0.3)
    [sealed] = seal_steps(tmp_path, tiny_dir, 1)
    bus.server.down = True
    with pytest.raises(FencedError):
        trainer.apply(sealed, fence)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("rival", [False, True])
def test_a_step_outlives_a_server_that_is_away_for_longer_than_the_lease(
    tmp_path: Path, tiny_dir: Path, rival: bool
) -> None:
    """It is written where nobody else has taken the lease since, and not at all where somebody has."""
    trainer, bus = student_trainer(tmp_path, tiny_dir), MemoryBus(lease_s=60)
    trainer._stopping.clear()
    trainer.restore()
    fence = leased(bus, ttl_s=0.2, waits=True)
    [sealed] = seal_steps(tmp_path, tiny_dir, 1)
    bus.server.down = True
    time.sleep(0.6)

    def back() -> None:
        with bus.server.changed:
            bus.server.down = False
            assert not rival or bus.acquire_lease(trainer_lease(STUDENT), "t1", ttl_s=60) == 2

    returning = threading.Timer(0.6, back)
    returning.start()
    if rival:
        with pytest.raises(FencedError, match="another trainer"):
            trainer.apply(sealed, fence)
    else:
        trainer.apply(sealed, fence)
    assert (tmp_path / "checkpoints").exists() is not rival
    returning.join()
    fence.release()


def test_a_trainer_that_must_stop_does_not_wait_for_the_server(tmp_path: Path, tiny_dir: Path) -> None:
    trainer, bus = student_trainer(tmp_path, tiny_dir), SilentBus(missed=99)
    trainer.restore()
    fence = leased(bus, ttl_s=60)
    [sealed] = seal_steps(tmp_path, tiny_dir, 1)
    with pytest.raises(UnavailableError):
        trainer.apply(sealed, fence)
    assert (trainer.step, bus.missed) == (0, 98)
    assert not (tmp_path / "checkpoints").exists()
    fence.release()
