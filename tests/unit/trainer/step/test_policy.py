"""A step of the GRPO baseline against the policy gradient written out row by row."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from services.trainer.model.learner import Learner
from services.trainer.model.model import StudentModel
from services.trainer.model.teacher import NoTeacher
from services.trainer.step.rows import training_rows
from services.trainer.step.step import StageClock, StepSettings, train_step
from services.trainer.step.trees import Row
from shared.modeling.chat import encode
from shared.modeling.loading import load_tokenizer
from shared.modeling.logprobs import token_logprobs
from tests.unit.trainer.ground import group_of, learner, rows, settings
from tests.unit.trainer.step.test_step import recorder

ADVANTAGES = (0.75, -0.25, 0.5, -1.0)


def grpo(**changes: object) -> StepSettings:
    return replace(settings(**changes), method="grpo")


def rewarded(groups: int = 3) -> list[Row]:
    """Rows with advantages of both signs, and engine's log-probs near and far from the student's."""
    return [replace(row, advantage=ADVANTAGES[number % 4]) for number, row in enumerate(rows(groups))]


def logprobs_of(one: Learner, row: Row) -> Tensor:
    one.model._use_attention(False)
    logits = one.model.network(torch.tensor([row.prompt + row.response])).logits[0, len(row.prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(row.response)[:, None])[:, 0]


def weights_of(old: Tensor, row: Row) -> Tensor:
    return (old - torch.tensor(row.logprobs)).exp().clamp(max=2.0)


def gradients(one: Learner) -> dict[str, Tensor]:
    found = {name: each.grad for name, each in one.model.named_parameters.items() if each.grad is not None}
    assert found
    return found


@pytest.mark.parametrize("micro_batch_tokens", [1, 16384])
def test_one_update_is_the_policy_gradient(tiny_dir: Path, micro_batch_tokens: int) -> None:
    """With the ratio at 1 it is -(1/B) Σ_j A_j mean_t w_t ∇ log π: no clip, no old policy to be seen."""
    step, made = grpo(micro_batch_tokens=micro_batch_tokens), rewarded()
    twin = recorder(tiny_dir, step)
    by_hand, value = torch.zeros(()), 0.0
    for row in (row for row in made if row.active):
        logprobs = logprobs_of(twin, row)
        weights = weights_of(logprobs.detach(), row)
        by_hand = by_hand - row.advantage * (weights * logprobs).mean() / len(made)
        value -= row.advantage * float(weights.mean()) / len(made)
    by_hand.backward()
    expected = gradients(twin)
    one = recorder(tiny_dir, step)
    metrics = train_step(one, made, step, StageClock())
    assert metrics.loss == pytest.approx(value, rel=1e-4)
    assert one.gradients.keys() == expected.keys()
    for name, gradient in one.gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-7)


def test_the_second_update_s_ratio_is_to_the_student_at_the_step_s_start(tiny_dir: Path) -> None:
    step, made = grpo(mini_batches=2, learning_rate=3e-2), rewarded(4)
    first, second = ([row for row in made if row.group % 2 == part] for part in (0, 1))
    twin = recorder(tiny_dir, step)
    with torch.no_grad():
        old = [logprobs_of(twin, row) for row in second]
    train_step(twin, first, grpo(learning_rate=3e-2), StageClock())
    by_hand, cut = torch.zeros(()), 0
    for row, before in zip(second, old, strict=True):
        if not row.active:
            continue
        ratio, a = (logprobs_of(twin, row) - before).exp(), row.advantage
        loss = torch.maximum(-a * ratio, -a * ratio.clamp(0.8, 1.28))
        cut += int((loss != -a * ratio).sum())
        loss = loss if a > 0 else loss.clamp(max=-3 * a)
        by_hand = by_hand + (weights_of(before, row) * loss).mean() / len(second)
    assert cut > 0, "the first update must move the student far enough for a cut to be seen"
    by_hand.backward()
    expected = gradients(twin)
    one = recorder(tiny_dir, step)
    train_step(one, made, step, StageClock())
    assert one.phase_updates == 2
    for name, gradient in one.gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-6)


def test_no_teacher_is_asked_and_time_is_booked(tiny_dir: Path) -> None:
    step = grpo(mini_batches=3)
    plain = learner(tiny_dir, step)
    one = Learner(plain.model, step.optimizer, NoTeacher(plain.model))
    metrics = train_step(one, rewarded(), step, StageClock())
    with pytest.raises(RuntimeError, match="asks no self-teacher"):
        one.teacher.output_layer(1.0)
    assert metrics.seconds.keys() == {"old policy", "student", "optimizer"}
    assert metrics.skipped_updates == 0


def test_the_mismatch_reported_is_that_of_the_engine_alone(tiny_dir: Path) -> None:
    """Not of what the first update did: with the engine's log-probs the trainer's own it is 0 in both updates."""
    step = grpo(mini_batches=2, learning_rate=3e-2)
    one: Learner = recorder(tiny_dir, step)
    made = []
    for row in rewarded():
        with torch.no_grad():
            logprobs = token_logprobs(one.model.network, [row.prompt], [row.response])[0]
        made.append(replace(row, logprobs=tuple(logprobs.tolist())))
    metrics = train_step(one, made, step, StageClock())
    assert metrics.delta_logprob == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("mini_batches", [1, 2])
def test_broken_weights_skip_the_update(tiny_dir: Path, mini_batches: int) -> None:
    step = grpo(mini_batches=mini_batches, max_skipped_updates=3)
    one = learner(tiny_dir, step)
    with torch.no_grad():
        one.model.parameters[0].fill_(float("nan"))
    metrics = train_step(one, rewarded(), step, StageClock())
    assert (metrics.skipped_updates, one.phase_updates) == (mini_batches, 0)


def test_advantages_are_of_the_whole_group_its_rejected_samples_included(tiny_dir: Path) -> None:
    tokenizer = load_tokenizer(tiny_dir, None)
    group = group_of(tokenizer, "2+2?", ["41", "40", "73", "7"])
    rewarded = [sample.model_copy(update={"reward": float(sample.index == 0)}) for sample in group.samples]
    rewarded[3] = rewarded[3].model_copy(update={"logprobs": (float("nan"),) * len(encode(tokenizer, "7"))})
    made, events = training_rows(
        [group.model_copy(update={"samples": tuple(rewarded)})], tokenizer, context_tokens=256, shorten=False
    )
    assert [row.advantage for row in made] == [0.75, -0.25, -0.25, -0.25]
    assert [row.active for row in made] == [True, True, True, False]
    assert events == {"unusable_logprobs": 1}


def test_an_update_makes_the_rewarded_answer_likelier(tiny_dir: Path) -> None:
    step = grpo()
    one = learner(tiny_dir, step)
    model: StudentModel = one.model
    made = [replace(row, advantage=1.0 if number == 0 else -0.5) for number, row in enumerate(rows(1, 3))]

    def seen(row: Row) -> float:
        with torch.no_grad():
            return float(token_logprobs(model.network, [row.prompt], [row.response]).sum())

    before = seen(made[0])
    for _ in range(3):
        train_step(one, made, step, StageClock())
    assert seen(made[0]) > before + 0.1


def test_an_anchored_update_is_the_policy_gradient_and_the_divergence_from_the_moving_average(tiny_dir: Path) -> None:
    """By hand, row by row, after one update has moved the student away from its average."""
    plain = grpo(learning_rate=3e-2)
    step = replace(plain, grpo=plain.grpo.model_copy(update={"anchor": 0.5}))
    made = rewarded()
    twin, one = recorder(tiny_dir, step), recorder(tiny_dir, step)
    for each in (twin, one):
        train_step(each, made, plain, StageClock())
    by_hand, pull = torch.zeros(()), 0.0
    for row in (row for row in made if row.active):
        with torch.no_grad(), twin.teacher.standing_in():
            average = logprobs_of(twin, row)
        logprobs = logprobs_of(twin, row)
        away = average - logprobs
        weights = weights_of(logprobs.detach(), row)
        divergence = 0.5 * (away.exp() - away - 1)
        pull += float(divergence.detach().sum())
        by_hand = by_hand + (weights * (divergence - row.advantage * logprobs)).mean() / len(made)
    assert pull > 0.01, "the first update must move the student away from its average"
    by_hand.backward()
    expected = gradients(twin)
    train_step(one, made, step, StageClock())
    for name, gradient in one.gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-6)


def sharing(one: Learner, row: Row, shift: float, weight: float) -> Row:
    """The row as the peer's: its mean log-prob is the student's own, moved by `shift`."""
    with torch.no_grad():
        mean = float(logprobs_of(one, row).mean()) - shift
    return replace(row, foreign=True, teacher_prompt=row.prompt, logprobs=(mean,) * len(row.response), weight=weight)


def test_an_update_on_shared_rollouts_is_hacpo_s_gradient(tiny_dir: Path) -> None:
    """By hand, row by row, in two updates: own rows against the student at the step's start, the peer's against it."""
    step = replace(settings(mini_batches=2, learning_rate=3e-2), method="hacpo")
    twin = recorder(tiny_dir, step)
    own = rewarded(2)
    # Logarithms of the ratios before any update: of the active rows one within the clip, one below it, one above 1.
    shifts = (-0.1, 0.0, -0.5, 0.1)
    foreign = [sharing(twin, row, shifts[number % 4], 1.5) for number, row in enumerate(own)]
    made = [row for group in range(2) for row in [*own, *foreign] if row.group == group]
    first, second = ([row for row in made if row.group == part] for part in (0, 1))
    with torch.no_grad():
        old = {row: logprobs_of(twin, row) for row in second if not row.foreign}
    train_step(twin, first, replace(step, optimizer=settings(learning_rate=3e-2).optimizer), StageClock())
    by_hand, used, peers = torch.zeros(()), 0, 0
    for row in (row for row in second if row.active):
        logprobs, a = logprobs_of(twin, row), row.advantage
        before = torch.tensor(row.logprobs) if row.foreign else old[row]
        ratio = (logprobs - before).mean().exp()
        if row.foreign:
            clipped = ratio.clamp(0.825, 1.0)
            peers, used = peers + 1, used + int(ratio.item() == clipped.item())
            by_hand = by_hand - a * 1.5 * clipped * clipped.detach() / len(second)
        else:
            loss = torch.maximum(-a * ratio, -a * ratio.clamp(1 - 3e-4, 1 + 4e-4))
            by_hand = by_hand + loss * weights_of(before, row).mean() / len(second)
    by_hand.backward()
    expected = gradients(twin)
    one = recorder(tiny_dir, step)
    metrics = train_step(one, made, step, StageClock())
    assert one.phase_updates == 2
    for name, gradient in one.gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-6)
    alone = train_step(recorder(tiny_dir, step), first, step, StageClock())
    assert metrics.peer_share is not None and alone.peer_share is not None
    assert metrics.peer_share * 2 * peers == pytest.approx(used + alone.peer_share * peers)
    assert alone.peer_share == pytest.approx(1 / 3), "the others are cut"


def test_without_shared_rollouts_no_share_is_told(tiny_dir: Path) -> None:
    metrics = train_step(learner(tiny_dir, grpo()), rewarded(), grpo(), StageClock())
    assert metrics.peer_share is None
    assert "peer_share" not in metrics.model_dump()


def test_the_peer_s_log_probs_are_no_mismatch_of_the_engine(tiny_dir: Path) -> None:
    step = replace(settings(), method="hacpo")
    one = learner(tiny_dir, step)
    made = []
    for row in rewarded(1):
        with torch.no_grad():
            logprobs = token_logprobs(one.model.network, [row.prompt], [row.response])[0]
        made += [replace(row, logprobs=tuple(logprobs.tolist())), sharing(one, row, 3.0, 1.0)]
    assert train_step(one, made, step, StageClock()).delta_logprob == pytest.approx(0, abs=1e-4)
