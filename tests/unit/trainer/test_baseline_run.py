"""A broker's run of each baseline, trained on by real trainers of a tiny model: from rollouts to published weights."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from services.broker.exchange.batches import adopt
from services.trainer.checkpoint import Checkpoints
from services.trainer.trainer import StudentTrainer
from shared.bus.keys import RESULTS, TRAINER, train
from shared.bus.port import Bus
from shared.config.baselines import Method
from shared.contracts.batches import BatchSealed
from shared.contracts.jobs import Job, JobOutput
from shared.contracts.weights import StepDone
from shared.files.store import LocalStore
from tests.fakes.broker import RUN, BrokerBench
from tests.unit.trainer.ground import BASE_SHA256, OpenFence, learner, rank_work, settings


class RealTrainer:
    """Takes sealed batches of one student and applies them, in the place of the bench's FakeTrainer."""

    def __init__(self, name: str, bus: Bus, run_dir: Path, tiny_dir: Path, method: Method) -> None:
        step = replace(settings(mini_batches=2), method=method)
        store = LocalStore(run_dir)
        self._name, self._bus = name, bus
        checkpoints = Checkpoints(store, run=RUN, student=name, base_sha256=BASE_SHA256)
        self.trainer = StudentTrainer(
            rank_work(learner(tiny_dir, step), tiny_dir, checkpoints, step, store, run=RUN),
            store,
            checkpoints,
            step,
            run=RUN,
            student=name,
            base_model=BASE_SHA256,
            stopping=threading.Event(),
        )
        self.trainer.restore()
        self.done: list[StepDone] = []

    def work(self) -> int:
        taken = self._bus.take([(train(self._name), TRAINER)], f"trainer-{self._name}", limit=10, block_s=0)
        for delivery in taken:
            sealed = delivery.message
            assert isinstance(sealed, BatchSealed)
            self.trainer.apply(sealed, OpenFence())
            self.trainer.publish()
            self.done.append(self.trainer.done(sealed.step))
            self._bus.complete(delivery, announce=(RESULTS, self.done[-1]))
        return len(taken)


def with_own_tokens(_job: Job, output: JobOutput) -> JobOutput:
    """Another text, other tokens: the bench's students have the same for all, on which advantages cancel out."""
    prompts = [
        prompt.model_copy(
            update={
                "samples": tuple(
                    sample.model_copy(update={"token_ids": (5, 6, 7 + int(sample.text.split()[-1]) % 2)})
                    for sample in prompt.samples
                )
            }
        )
        for prompt in output.prompts
    ]
    return output.model_copy(update={"prompts": tuple(prompts)})


@pytest.mark.parametrize("method", ["sdpo", "grpo", "hacpo"])
def test_a_baseline_trains_both_students_and_asks_no_tutor(tmp_path: Path, tiny_dir: Path, method: Method) -> None:
    bench = BrokerBench(tmp_path, ("gate.mode=never", f"run.method={method}", "rollout.samples=4"))
    trainers = {name: RealTrainer(name, bench.workers, tmp_path, tiny_dir, method) for name in "ab"}
    bench.trainers = trainers  # type: ignore[assignment]
    for student in bench.students.values():
        student.spoil = with_own_tokens
    state = bench.finish()
    assert state.steps == {"a": 2, "b": 2}
    for name, trainer in trainers.items():
        checksums = {done.checksum for done in trainer.done}
        assert len(checksums) == 2, "each step changed the weights"
        for done in trainer.done:
            sealed = adopt(LocalStore(tmp_path), name, done.step, RUN)
            assert sealed is not None and sealed.sha256 == done.batch_sha256
            share = sealed.manifest.active_samples / sealed.manifest.samples
            assert done.metrics.active_share == pytest.approx(share)
            assert done.metrics.grad_norm > 0
            assert ("teacher" in done.metrics.seconds) == (method == "sdpo")
            assert ("old policy" in done.metrics.seconds) == (method != "sdpo")
            assert (done.metrics.peer_share is None) == (method != "hacpo")
        files = {path.name for path in (tmp_path / "checkpoints" / name / "k000002").iterdir()}
        assert "optimizer.safetensors" in files and ("teacher.safetensors" in files) == (method == "sdpo")
