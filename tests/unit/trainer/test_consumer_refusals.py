"""Steps that cannot be made, or not any more: told, and left for the one who can."""

import time
from collections.abc import Callable

import pytest

from shared.contracts.envelope import Message
from shared.contracts.weights import StepDone, StepFailed
from shared.errors import ConfigError
from tests.fakes.waiting import WAIT_S, wait_until
from tests.unit.trainer.consuming import LEASE_S, QUEUE, Ground, announce, steps_of
from tests.unit.trainer.ground import (
    OpenFence,
    seal_steps,
    seal_streamed,
    settings,
    student_trainer,
)


def failing(error: Exception) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def steps_done(answers: list[Message]) -> list[tuple[int, str]]:
    return [(answer.step, answer.checksum) for answer in answers if isinstance(answer, StepDone)]


def test_a_step_that_cannot_be_made_again_is_told_and_tried_again_with_the_next_batch(ground: Ground) -> None:
    seldom = settings(checkpoint_every=9)
    sealed = seal_steps(ground.run_dir, ground.tiny_dir, 3)
    apart = seal_steps(ground.run_dir / "apart", ground.tiny_dir, 3)
    with ground.running(step=seldom):
        for each in sealed[:2]:
            ground.bus.publish(QUEUE, each)
        ground.read(2)
    lost, aside = ground.run_dir / sealed[0].uri, ground.run_dir / "aside"
    lost.rename(aside)
    with ground.running("t1", seldom) as one:
        failed = ground.read(3)[2]
        assert isinstance(failed, StepFailed) and failed.step == 3
        assert "step 1 has to be made again" in failed.reason
        ground.bus.publish(QUEUE, sealed[2])
        again = ground.read(5)[-1]
        assert isinstance(again, StepFailed) and again.reason == failed.reason
        assert one.thread.is_alive() and one.trainer.step == 2
        aside.rename(lost)
        ground.bus.publish(QUEUE, sealed[2])
        done = ground.read(6)[-1]
    assert isinstance(done, StepDone) and done.step == 3
    whole = student_trainer(ground.run_dir / "apart", ground.tiny_dir, settings())
    for each in apart:
        whole.apply(each, OpenFence())
    assert done.checksum == whole.done(3).checksum, "trained on what step 2 left, and on nothing else"


def test_a_bad_batch_is_refused_and_may_be_sent_again(ground: Ground) -> None:
    [sealed] = seal_steps(ground.run_dir, ground.tiny_dir, 1)
    with ground.running() as one:
        ground.bus.publish(QUEUE, sealed.model_copy(update={"sha256": "0" * 64}))
        [failed] = ground.read(1)
        assert isinstance(failed, StepFailed)
        assert (failed.step, one.trainer.step) == (1, 0)
        assert "sha256" in failed.reason
        ground.bus.publish(QUEUE, sealed)
        assert steps_of(ground.read(2)) == [1]


def test_a_step_that_some_setting_or_prompt_forbids_is_refused_and_may_be_sent_again(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told, and not the end of this process: the launcher takes its exit code for one that a restart does not mend."""
    [sealed] = seal_steps(ground.run_dir, ground.tiny_dir, 1)
    with ground.running() as one:
        with monkeypatch.context() as broken:
            broken.setattr(one.trainer._work, "train", failing(ConfigError("clip must be positive, got 0")))
            ground.bus.publish(QUEUE, sealed)
            [failed] = ground.read(1)
        assert isinstance(failed, StepFailed) and failed.reason == "ConfigError: clip must be positive, got 0"
        ground.bus.publish(QUEUE, sealed)  # as when the run is resumed
        assert steps_of(ground.read(2)) == [1]


class OutOfMemoryError(RuntimeError):
    """As torch calls it."""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            OutOfMemoryError("CUDA out of memory"),
            "set a lower optimizer.micro_batch_tokens",
        ),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero"),
    ],
)
def test_what_nobody_foresaw_in_a_step_is_told_and_ends_this_process_alone(
    ground: Ground, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    """Delivered again it would end the next one, and so on, and the run would never say why it stands."""
    [sealed] = seal_steps(ground.run_dir, ground.tiny_dir, 1)
    with ground.running("t0") as first:
        monkeypatch.setattr(first.trainer._work, "train", failing(error))
        ground.bus.publish(QUEUE, sealed)
        [failed] = ground.read(1)
        first.thread.join(WAIT_S)
    assert isinstance(failed, StepFailed) and said in failed.reason
    assert first.error is error and ground.settled()
    with ground.running("t1"):
        time.sleep(2.5 * LEASE_S)
        assert len(ground.read(1)) == 1, "it does not come again"
        ground.bus.publish(QUEUE, sealed)  # as when the run is resumed
        assert steps_of(ground.read(2)) == [1]


def test_what_nobody_foresaw_in_a_group_is_left_to_its_batch(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    sealed, ahead = seal_streamed(ground.run_dir, ground.tiny_dir, 1, [1, 2, 0])
    with ground.running() as one, monkeypatch.context() as broken:
        broken.setattr(one.trainer._work, "add", failing(ZeroDivisionError("division by zero")))
        announce(ground.bus, ahead)
        wait_until(lambda: one.trainer._left == 1, "the step is left for its batch")
        ground.bus.publish(QUEUE, sealed)
        assert steps_of(ground.read(1)) == [1]
        wait_until(ground.settled, "all acknowledged")


@pytest.mark.parametrize("batch", ["there", "gone"])
def test_a_step_whose_checkpoint_is_gone_is_made_once_more_of_its_batch(ground: Ground, batch: str) -> None:
    """It was acknowledged, so nobody delivers it again; the batch after it waits."""
    first, second, third = seal_steps(ground.run_dir, ground.tiny_dir, 3)
    with ground.running("t0"):
        for each in (first, second):
            ground.bus.publish(QUEUE, each)
        made = steps_done(ground.read(2))
        wait_until(ground.settled, "all acknowledged")
    (ground.run_dir / "checkpoints/a/k000002/manifest.json").write_bytes(b"")
    if batch == "gone":
        (ground.run_dir / second.uri).rename(ground.run_dir / "aside")
    with ground.running("t1") as one:
        ground.bus.publish(QUEUE, third)
        if batch == "gone":
            failed = ground.read(4)[-1]
            assert isinstance(failed, StepFailed) and failed.step == 2
            assert "the checkpoint of step 2 is gone: cannot read" in failed.reason
            (ground.run_dir / "aside").rename(ground.run_dir / second.uri)
            ground.bus.publish(QUEUE, third)  # as when the run is resumed
        done = steps_done(ground.read(5 if batch == "there" else 6))
    assert one.error is None
    assert done[:4] == [*made, *made], "the same weights, and the same version"
    assert [step for step, _ in done] == [1, 2, 1, 2, 3]
