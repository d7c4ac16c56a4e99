"""A step of the GRPO baseline against the gradient written out token by token, on a tiny real model."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from services.trainer.learner import Learner
from services.trainer.rows import Row, mini_batches
from services.trainer.step import StageClock, StepSettings, train_step
from shared.errors import FencedError
from shared.modeling.logprobs import token_logprobs
from tests.unit.trainer.ground import learner, rows, settings

Gradients = dict[str, torch.Tensor]


class Recorder(Learner):
    """Keeps the gradients of each update that it makes; asking its teacher is an error."""

    gradients: list[Gradients]

    @classmethod
    def of(cls, directory: Path, step: StepSettings) -> "Recorder":
        made = cls.__new__(cls)
        made.__dict__ = learner(directory, step).__dict__ | {"gradients": []}
        made.teacher.logits = None  # type: ignore[method-assign, assignment]
        return made

    def update(self) -> float | None:
        self.gradients.append(gradients_of(self))
        return super().update()


def gradients_of(one: Learner) -> Gradients:
    return {name: each.grad.clone() for name, each in one.model.named_parameters.items() if each.grad is not None}


def graded_rows(groups: int = 3) -> list[Row]:
    """Engine log-probs far enough off that some weights are cut; in each group one reward of 1 in 4."""
    made = [replace(row, active=True, advantage=0.75 if i % 4 == 0 else -0.25) for i, row in enumerate(rows(groups))]
    return [replace(row, logprobs=tuple(value - 1.5 * (i % 2) for value in row.logprobs)) for i, row in enumerate(made)]


def logprobs_of(one: Learner, row: Row) -> torch.Tensor:
    return token_logprobs(one.model.peft, [row.prompt], [row.response])[0]


def by_hand(one: Learner, batch: list[Row], old: dict[int, torch.Tensor], samples: int) -> Gradients:
    """Method 4: mean over samples of the mean over tokens of w · max(-A·ratio, -A·clip(ratio)), dual clip for A < 0."""
    total = torch.zeros(())
    for row in batch:
        now, before, a = logprobs_of(one, row), old[id(row)], row.advantage
        weight = (before - torch.tensor(row.logprobs)).exp().clamp(max=2.0)
        ratio = (now - before).exp()
        token = torch.maximum(-a * ratio, -a * ratio.clamp(0.8, 1.28))
        if a < 0:
            token = token.clamp(max=-3.0 * a)
        total = total + (weight * token).mean() / samples
    total.backward()
    found = gradients_of(one)
    for parameter in one.model.parameters:
        parameter.grad = None
    return found


def logprobs_before(one: Learner, batch: list[Row]) -> dict[int, torch.Tensor]:
    with torch.no_grad():
        return {id(row): logprobs_of(one, row) for row in batch}


def assert_same(found: Gradients, wanted: Gradients) -> None:
    assert found.keys() == wanted.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, wanted[name], rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("micro_batch_tokens", [1, 40, 16384])
def test_one_update_is_the_plain_policy_gradient(tiny_dir: Path, micro_batch_tokens: int) -> None:
    step = settings("grpo", micro_batch_tokens=micro_batch_tokens)
    made, one = graded_rows(), Recorder.of(tiny_dir, step)
    old = logprobs_before(one, made)
    total = torch.zeros(())
    for row in made:
        weight = (old[id(row)] - torch.tensor(row.logprobs)).exp().clamp(max=2.0)
        total = total - row.advantage * (weight * logprobs_of(one, row)).mean() / len(made)
    total.backward()
    wanted = gradients_of(one)
    for parameter in one.model.parameters:
        parameter.grad = None
    train_step(one, made, step, StageClock())
    [found] = one.gradients
    assert_same(found, wanted)
    assert any(float(each.abs().max()) > 1e-4 for each in wanted.values())


def test_a_second_update_is_clipped_against_the_student_at_the_step_s_start(tiny_dir: Path) -> None:
    step = settings("grpo", mini_batches=2, learning_rate=3e-2)
    made = graded_rows()
    first, second = mini_batches(made, 2)
    shadow = learner(tiny_dir, step)
    old = logprobs_before(shadow, made)
    wanted_first = by_hand(shadow, first, old, len(first))
    one = Recorder.of(tiny_dir, step)
    metrics = train_step(one, made, step, StageClock())
    assert_same(one.gradients[0], wanted_first)

    for name, parameter in shadow.model.named_parameters.items():
        parameter.grad = wanted_first[name]
    shadow.update()
    ratios = torch.cat([(logprobs_of(shadow, row) - old[id(row)]).exp() for row in second])
    assert bool((ratios > 1.28).any()) and bool((ratios < 0.8).any()), "the case clips on both sides"
    assert_same(one.gradients[1], by_hand(shadow, second, old, len(second)))
    assert metrics.seconds.keys() >= {"old_policy", "student", "optimizer"}
    assert "teacher" not in metrics.seconds


def test_the_weights_compare_engine_and_step_start_only(tiny_dir: Path) -> None:
    """Engine log-probs that are the student's own: every weight is 1, whatever the first update changed."""
    step = settings("grpo", mini_batches=2, learning_rate=3e-2)
    one = Recorder.of(tiny_dir, step)
    old = logprobs_before(one, made := graded_rows())
    made = [replace(row, logprobs=tuple(old[id(row)].tolist())) for row in made]
    metrics = train_step(one, made, step, StageClock())
    assert metrics.delta_logprob == pytest.approx(0, abs=1e-4)
    assert metrics.effective_sample_share == pytest.approx(1, abs=1e-4)


def test_what_was_rewarded_becomes_likelier_than_the_rest_of_its_group(tiny_dir: Path) -> None:
    step = settings("grpo")
    made, one = graded_rows(), Recorder.of(tiny_dir, step)

    def preference() -> float:
        return sum(row.advantage * float(each.mean()) for row, each in zip(made, scores(), strict=True))

    def scores() -> list[torch.Tensor]:
        return list(logprobs_before(one, made).values())

    before = preference()
    for _ in range(3):
        train_step(one, made, step, StageClock())
    assert preference() > before + 0.1


def test_rows_without_advantage_count_as_samples_only(tiny_dir: Path) -> None:
    step = settings("grpo")
    made = [replace(row, active=row.group > 0) for row in graded_rows()]
    one = Recorder.of(tiny_dir, step)
    active = [row for row in made if row.active]
    wanted = by_hand(one, active, logprobs_before(one, active), len(made))
    metrics = train_step(one, made, step, StageClock())
    assert_same(one.gradients[0], wanted)
    assert metrics.active_share == len(active) / len(made)


def test_broken_weights_skip_the_update(tiny_dir: Path) -> None:
    step = settings("grpo", mini_batches=2)
    one = Recorder.of(tiny_dir, step)
    with torch.no_grad():
        one.model.parameters[0].fill_(float("nan"))
    assert train_step(one, graded_rows(), step, StageClock()).skipped_updates == 2
    assert one.gradients == []


def test_a_lost_right_to_write_ends_the_scoring_too(tiny_dir: Path) -> None:
    calls: list[int] = []

    def lost() -> None:
        calls.append(1)
        raise FencedError("another trainer")

    step = settings("grpo", mini_batches=2)
    with pytest.raises(FencedError):
        train_step(Recorder.of(tiny_dir, step), graded_rows(), step, StageClock(), lost)
    assert calls == [1]
