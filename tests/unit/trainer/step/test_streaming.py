"""A step whose groups come one by one makes the gradient of the whole batch, and the same bits for the same order."""

import functools
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import settings as tried
from hypothesis import strategies as st

from services.trainer.model.learner import LearnerState
from services.trainer.step.step import NonFiniteError, StageClock, Step, StepSettings, train_step
from services.trainer.step.streaming import StreamedStep
from services.trainer.step.trees import Row
from shared.config.baselines import GrpoSection, Method
from shared.contracts.weights import StepMetrics
from shared.errors import StorageError
from tests.unit.trainer.ground import settings
from tests.unit.trainer.step.test_step import Recorder, recorder

STILL = 1e-9
"""A learning rate whose updates are too small to be seen in the gradients that follow."""

METHODS: dict[str, StepSettings] = {
    "opcod": settings(learning_rate=STILL),
    "opcod, active alone": settings(learning_rate=STILL, aggregation="seq_mean_active"),
    "opcod, by token": settings(learning_rate=STILL, aggregation="token_mean"),
    "grpo": replace(settings(learning_rate=STILL, aggregation="token_mean"), method="grpo"),
    "anchored grpo": replace(settings(learning_rate=STILL), method="grpo", grpo=GrpoSection(anchor=0.1)),
}

SAMPLES = st.lists(st.booleans(), min_size=1, max_size=3)
"""Of a group, by sample: whether it has a loss."""


@functools.cache
def trained(directory: Path) -> tuple[Recorder, LearnerState]:
    """A learner, and the state from which every example begins."""
    one = recorder(directory, settings(learning_rate=STILL))
    return one, one.state()


def groups_of(masks: Sequence[Sequence[bool]], seed: int) -> list[list[Row]]:
    draw = random.Random(seed)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(draw.randrange(200) for _ in range(count))

    made = []
    for number, mask in enumerate(masks):
        prompt, start = ids(draw.randrange(2, 6)), ids(1)
        responses = [start + ids(draw.randrange(5)) for _ in mask]
        made.append(
            [
                Row(
                    group=number,
                    prompt=prompt,
                    teacher_prompt=prompt + ids(3),
                    response=response,
                    logprobs=tuple(-5.0 - draw.random() for _ in response),
                    active=active,
                    advantage=draw.uniform(-1.0, 1.0),
                    sample=sample,
                )
                for sample, (active, response) in enumerate(zip(mask, responses, strict=True))
            ]
        )
    return made


def streamed(one: Recorder, groups: Sequence[Sequence[Row]], order: Sequence[int], step: StepSettings) -> StepMetrics:
    under_way = StreamedStep(Step(one, step, StageClock()), len(groups))
    for position in under_way.in_turn(order):
        under_way.add(groups[position])
    return under_way.finish()


@tried(max_examples=40)
@given(data=st.data(), masks=st.lists(SAMPLES, min_size=1, max_size=5), seed=st.integers(0, 99))
@pytest.mark.parametrize("name", METHODS)
def test_the_gradient_is_that_of_the_whole_batch(
    tiny_dir: Path, name: str, data: st.DataObject, masks: list[list[bool]], seed: int
) -> None:
    mini_batches = data.draw(st.integers(1, 3), label="mini-batches")
    order = data.draw(st.permutations(range(len(masks))), label="order")
    limit = data.draw(st.sampled_from([1, 40, 1024]), label="tokens of a pass")
    step = METHODS[name]
    step = replace(
        step, optimizer=step.optimizer.model_copy(update={"mini_batches": mini_batches, "micro_batch_tokens": limit})
    )
    (one, start), groups = trained(tiny_dir), groups_of(masks, seed)
    found = []
    for made in (
        lambda: train_step(one, [row for group in groups for row in group], step, StageClock()),
        lambda: streamed(one, groups, order, step),
    ):
        one.load(start)
        one.gradients = {}
        metrics = made()
        found.append((metrics, one.gradients, one.phase_updates))
    (wanted, expected, updates), (came, gradients, made_updates) = found
    assert made_updates == updates
    assert came.loss == pytest.approx(wanted.loss, rel=1e-5, abs=1e-7)
    assert came.grad_norm == pytest.approx(wanted.grad_norm, rel=1e-5, abs=1e-9)
    same = {"active_share", "tokens", "skipped_updates"}
    assert came.model_dump(include=same) == wanted.model_dump(include=same)
    assert came.delta_logprob == pytest.approx(wanted.delta_logprob, rel=1e-5)
    assert gradients.keys() == expected.keys()
    for parameter, gradient in gradients.items():
        # Absolute beside the largest: an entry that is a sum of opposite ones keeps fewer digits.
        largest = float(expected[parameter].abs().max())
        torch.testing.assert_close(gradient, expected[parameter], rtol=1e-5, atol=1e-5 * largest + 1e-12)


@pytest.mark.parametrize("method", ["opcod", "grpo"])
def test_equal_orders_give_equal_bits_and_another_order_the_same_step(tiny_dir: Path, method: Method) -> None:
    step = replace(settings(mini_batches=2), method=method)
    groups = groups_of([[True, True, False]] * 5, seed=1)
    states = []
    for order in ([4, 0, 3, 1, 2], [4, 0, 3, 1, 2], [0, 1, 2, 3, 4]):
        one = recorder(tiny_dir, step)
        streamed(one, groups, order, step)
        assert one.phase_updates == 2
        states.append(one.state().published)
    whole = recorder(tiny_dir, step)
    train_step(whole, [row for group in groups for row in group], step, StageClock())
    for name, expected in whole.state().published.items():
        assert torch.equal(states[0][name], states[1][name])
        for state in states:
            torch.testing.assert_close(state[name], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", ["opcod", "grpo"])
def test_a_mini_batch_waits_for_its_last_group_and_a_policy_gradient_for_all(tiny_dir: Path, method: Method) -> None:
    step = replace(settings(mini_batches=2), method=method)
    groups = groups_of([[True, True]] * 4, seed=2)
    one = recorder(tiny_dir, step)
    under_way = StreamedStep(Step(one, step, StageClock()), len(groups))
    made = []
    for position in (2, 0, 1, 3):
        under_way.add(groups[position])
        made.append(one.phase_updates)
    assert made == ([0, 0, 1, 1] if method == "opcod" else [0, 0, 0, 0])
    under_way.finish()
    assert one.phase_updates == 2


def test_groups_are_taken_mini_batch_by_mini_batch_and_within_one_as_they_came(tiny_dir: Path) -> None:
    step = settings(mini_batches=3)
    under_way = StreamedStep(Step(trained(tiny_dir)[0], step, StageClock()), 6)
    assert under_way.in_turn([5, 3, 1, 0, 4, 2]) == [3, 0, 1, 4, 5, 2]


@pytest.mark.parametrize("order", [(0, 1), (0, 2, 1, 0), (0, 2, 1)], ids=["too early", "too late", "not all"])
@pytest.mark.parametrize("method", ["opcod", "grpo"])
def test_no_update_is_made_of_a_mini_batch_that_is_not_whole(
    tiny_dir: Path, method: Method, order: Sequence[int]
) -> None:
    """Groups 0 and 2 are one, 1 and 3 the other."""
    step = replace(settings(mini_batches=2), method=method)
    one, groups = recorder(tiny_dir, step), groups_of([[True]] * 4, seed=5)
    under_way = StreamedStep(Step(one, step, StageClock()), len(groups))
    with pytest.raises(StorageError, match="expected"):
        for position in order:
            under_way.add(groups[position])
        under_way.finish()


def test_what_is_not_finite_spoils_its_mini_batch_and_no_other(tiny_dir: Path) -> None:
    step = settings(mini_batches=2)
    one = recorder(tiny_dir, step)
    parameter = one.model.parameters[0]
    sound, passes = parameter.detach().clone(), iter(["sound", "broken", "sound", "sound"])

    def check() -> None:
        with torch.no_grad():
            parameter.copy_(sound if next(passes) == "sound" else torch.full_like(sound, float("nan")))

    under_way = StreamedStep(Step(one, step, StageClock(), check), 4)
    for position in (2, 0, 1, 3):
        under_way.add(groups_of([[True]] * 4, seed=3)[position])
    assert (under_way.finish().skipped_updates, one.phase_updates, one.skipped_in_row) == (1, 1, 0)


def test_weights_that_are_broken_end_it(tiny_dir: Path) -> None:
    step = settings(mini_batches=2, max_skipped_updates=2)
    one = recorder(tiny_dir, step)
    with torch.no_grad():
        one.model.parameters[0].fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="2 updates in a row"):
        streamed(one, groups_of([[True]] * 4, seed=4), [0, 1, 2, 3], step)
