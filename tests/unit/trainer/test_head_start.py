"""Steps that are begun before their batch is sealed: the weights are those of the batch, whatever was begun with."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest

from services.trainer import metrics
from services.trainer.step.step import StepSettings
from services.trainer.trainer import StepRefusedError, StudentTrainer
from shared.config.baselines import Method
from shared.contracts.batches import BatchSealed
from shared.errors import FencedError, StorageError
from tests.unit.trainer.ground import (
    Ahead,
    OpenFence,
    group_of,
    seal_streamed,
    sealed_ahead,
    settings,
    student_trainer,
)

ORDER = (2, 0, 3, 1)
TWO_UPDATES = settings(mini_batches=2, trace_share=1.0)

Begin = Callable[[StudentTrainer, list[Ahead]], None]


def outcome(metric_label: str) -> float:
    return metrics.AHEAD.labels(metric_label)._value.get()


def begin(trainer: StudentTrainer, ahead: list[Ahead]) -> None:
    for sealed, payload in ahead:
        trainer.add(sealed, payload, OpenFence())


def made(trainer: StudentTrainer, sealed: BatchSealed) -> tuple[str, object]:
    """Checksum and what is said of the step but its times."""
    trainer.apply(sealed, OpenFence())
    done = trainer.done(sealed.step)
    return done.checksum, done.metrics.model_dump(exclude={"seconds"})


def of_the_batches(tmp_path: Path, tiny_dir: Path, step: StepSettings, count: int = 1) -> list[tuple[str, object]]:
    """What the batches alone make, in a directory of their own."""
    trainer = student_trainer(tmp_path / "alone", tiny_dir, step)
    trainer.restore()
    return [
        made(trainer, seal_streamed(tmp_path / "alone", tiny_dir, number, ORDER)[0]) for number in range(1, count + 1)
    ]


@pytest.mark.parametrize("method", ["opcod", "grpo"])
@pytest.mark.parametrize("count", [1, 3, 4])
def test_a_step_begun_with_some_groups_is_that_of_its_batch(
    tmp_path: Path, tiny_dir: Path, method: Method, count: int
) -> None:
    step = replace(TWO_UPDATES, method=method)
    trainer, before = student_trainer(tmp_path, tiny_dir, step), outcome("kept")
    trainer.restore()
    found = []
    for number in (1, 2):
        sealed, ahead = seal_streamed(tmp_path, tiny_dir, number, ORDER)
        begin(trainer, ahead[:count])
        # Delivered once more, it is not added once more.
        begin(trainer, ahead[:1])
        assert trainer.step == number - 1, "nothing is applied before the batch"
        found.append(made(trainer, sealed))
    assert found == of_the_batches(tmp_path, tiny_dir, step, 2)
    assert outcome("kept") == before + 2 * count
    traces = [(root / "traces/a/s00002.json") for root in (tmp_path, tmp_path / "alone")]
    assert method == "grpo" or traces[0].read_bytes() == traces[1].read_bytes()


def another_order(trainer: StudentTrainer, ahead: list[Ahead]) -> None:
    begin(trainer, [ahead[1], ahead[0]])


def another_group(trainer: StudentTrainer, ahead: list[Ahead]) -> None:
    """Its feedback is excluded by a person after it was sealed, and before the batch is."""
    group = group_of(trainer._work.tokenizer, "1+2?", ["41", "9", ""])
    begin(trainer, [sealed_ahead(group, 1, ORDER[0], len(ORDER)), *ahead])


def one_that_is_missing(trainer: StudentTrainer, ahead: list[Ahead]) -> None:
    begin(trainer, ahead[1:])


def altered(trainer: StudentTrainer, ahead: list[Ahead]) -> None:
    begin(trainer, [ahead[0], (ahead[1][0], ahead[2][1]), ahead[3]])


def renamed(trainer: StudentTrainer, ahead: list[Ahead]) -> None:
    """The payload is whole, but of another group."""
    sealed = ahead[1][0].model_copy(update={"payload": ahead[2][0].payload})
    begin(trainer, [ahead[0], (sealed, ahead[2][1])])


def misplaced(trainer: StudentTrainer, ahead: list[Ahead]) -> None:
    """As if it were of the other mini-batch."""
    (sealed, payload), *others = ahead
    begin(trainer, [(sealed.model_copy(update={"position": sealed.position + 1}), payload), *others])


def of_a_phase_that_goes_on(trainer: StudentTrainer, ahead: list[Ahead]) -> None:
    begin(trainer, [(sealed.model_copy(update={"phase_start": False}), payload) for sealed, payload in ahead])


OTHERWISE = (another_order, another_group, one_that_is_missing, altered, renamed, misplaced, of_a_phase_that_goes_on)


@pytest.mark.parametrize("begun", OTHERWISE)
def test_a_step_begun_otherwise_than_its_batch_says_is_made_again(tmp_path: Path, tiny_dir: Path, begun: Begin) -> None:
    trainer, before = student_trainer(tmp_path, tiny_dir, TWO_UPDATES), outcome("dropped")
    trainer.restore()
    sealed, ahead = seal_streamed(tmp_path, tiny_dir, 1, ORDER)
    begun(trainer, ahead)
    assert [made(trainer, sealed)] == of_the_batches(tmp_path, tiny_dir, TWO_UPDATES)
    assert outcome("dropped") > before
    again, ahead = seal_streamed(tmp_path, tiny_dir, 2, ORDER)
    kept = outcome("kept")
    begin(trainer, ahead)
    made(trainer, again)
    assert outcome("kept") == kept + len(ORDER), "the next step is begun with again"


def test_a_trainer_that_dies_between_two_groups_begins_again(tmp_path: Path, tiny_dir: Path) -> None:
    sealed, ahead = seal_streamed(tmp_path, tiny_dir, 1, ORDER)
    first = student_trainer(tmp_path, tiny_dir, TWO_UPDATES)
    first.restore()
    begin(first, ahead[:3])
    second = student_trainer(tmp_path, tiny_dir, TWO_UPDATES)
    second.restore()
    assert second.step == 0
    begin(second, ahead[:2])
    assert [made(second, sealed)] == of_the_batches(tmp_path, tiny_dir, TWO_UPDATES)


def test_a_lost_lease_ends_it_between_two_groups(tmp_path: Path, tiny_dir: Path) -> None:
    class Lost(OpenFence):
        def check(self) -> None:
            raise FencedError("another trainer took over")

    trainer = student_trainer(tmp_path, tiny_dir)
    trainer.restore()
    _, ahead = seal_streamed(tmp_path, tiny_dir, 1, ORDER)
    with pytest.raises(FencedError):
        trainer.add(*ahead[0], Lost())


def test_a_batch_that_is_refused_takes_back_what_was_begun(tmp_path: Path, tiny_dir: Path) -> None:
    trainer = student_trainer(tmp_path, tiny_dir, TWO_UPDATES)
    trainer.restore()
    sealed, ahead = seal_streamed(tmp_path, tiny_dir, 1, ORDER)
    groups = tmp_path / sealed.uri / "groups.jsonl"
    whole = groups.read_bytes()
    groups.write_bytes(b"altered")
    begin(trainer, ahead)
    with pytest.raises(StepRefusedError, match="sha256"):
        trainer.apply(sealed, OpenFence())
    groups.write_bytes(whole)
    assert [made(trainer, sealed)] == of_the_batches(tmp_path, tiny_dir, TWO_UPDATES)


def test_a_step_whose_batch_cannot_be_compared_with_what_was_begun_is_made_again(
    tmp_path: Path, tiny_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that does not answer once, and a group that is not the batch's."""

    def away(*_: object) -> NoReturn:
        raise StorageError("the disk is away")

    trainer, before = student_trainer(tmp_path, tiny_dir, TWO_UPDATES), outcome("dropped")
    trainer.restore()
    sealed, _ = seal_streamed(tmp_path, tiny_dir, 1, ORDER)
    group = group_of(trainer._work.tokenizer, "1+2?", ["41", "9", ""])
    begin(trainer, [sealed_ahead(group, 1, ORDER[0], len(ORDER))])
    monkeypatch.setattr("services.trainer.trainer.read_manifest", away)
    assert [made(trainer, sealed)] == of_the_batches(tmp_path, tiny_dir, TWO_UPDATES)
    assert outcome("dropped") == before + 1


def test_groups_of_another_step_are_nobody_s(tmp_path: Path, tiny_dir: Path) -> None:
    trainer = student_trainer(tmp_path, tiny_dir)
    trainer.restore()
    with pytest.raises(ValueError, match="expected a group of step 1, got one of 2"):
        begin(trainer, seal_streamed(tmp_path, tiny_dir, 2, ORDER)[1])
