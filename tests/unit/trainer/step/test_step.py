"""One step against plain arithmetic: same loss and gradient as row by row, however it is cut up."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from services.trainer.model.learner import Learner
from services.trainer.step.losses import importance_weights
from services.trainer.step.rows import training_rows
from services.trainer.step.step import NonFiniteError, StageClock, StepSettings, train_step
from services.trainer.step.trees import Row
from shared.errors import FencedError
from shared.modeling.chat import encode, render
from shared.modeling.loading import Dtype, load_tokenizer
from shared.modeling.logprobs import token_logprobs
from tests.fakes.loss import self_distillation_loss
from tests.unit.trainer.ground import group_of, learner, rows, settings


def run(one: Learner, made: list[Row], step: StepSettings) -> object:
    return train_step(one, made, step, StageClock())


class Recorder(Learner):
    """Keeps the gradients of the update that it makes."""

    gradients: dict[str, torch.Tensor]

    def update(self, scale: float = 1.0) -> float | None:
        self.gradients = {
            name: each.grad * scale for name, each in self.model.named_parameters.items() if each.grad is not None
        }
        return super().update(scale)


def recorder(directory: Path, step: StepSettings, full: Dtype | None = None, *, recompute: bool = False) -> Recorder:
    """A student that has moved away from its teacher."""
    one = learner(directory, step, full=full, recompute=recompute)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in one.model.parameters:
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    one.model.round()
    made = Recorder.__new__(Recorder)
    made.__dict__ = one.__dict__
    return made


def reference(one: Learner, made: list[Row], step: StepSettings) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradient with every row on its own, padded to one length, through the published loss."""
    longest = max(len(row.response) for row in made)
    shape = (len(made), longest)
    mask, rollout = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape)
    own, taught, chosen = [], [], torch.zeros(shape)
    for number, row in enumerate(made):
        length = len(row.response)
        mask[number, :length] = True
        rollout[number, :length] = torch.tensor(row.logprobs)
        teacher_prompt = row.teacher_prompt or row.prompt
        one.model._use_attention(False)
        with torch.no_grad(), one.teacher.standing_in():
            logits = one.model.network(torch.tensor([teacher_prompt + row.response])).logits[0]
            taught.append(pad(logits[len(teacher_prompt) - 1 : -1], longest))
        logits = one.model.network(torch.tensor([row.prompt + row.response])).logits[0, len(row.prompt) - 1 : -1]
        own.append(pad(logits, longest))
        targets = torch.tensor(row.response)[:, None]
        chosen[number, :length] = logits.detach().log_softmax(-1).gather(1, targets)[:, 0]
    active = torch.tensor([row.active for row in made])
    weights = importance_weights(chosen, rollout, mask & active[:, None], clip=step.loss.is_clip)
    loss = self_distillation_loss(
        torch.stack(own),
        torch.stack(taught),
        mask,
        active,
        alpha=step.loss.alpha,
        top_k=100,
        tail=step.loss.tail,
        weights=weights,
        aggregation=step.loss.aggregation,
    )
    loss.backward()
    gradients = {name: each.grad for name, each in one.model.named_parameters.items() if each.grad is not None}
    return float(loss.detach()), gradients


def pad(logits: torch.Tensor, length: int) -> torch.Tensor:
    return torch.nn.functional.pad(logits, (0, 0, 0, length - len(logits)))


@pytest.mark.parametrize("aggregation", ["seq_mean", "seq_mean_active", "token_mean"])
@pytest.mark.parametrize("micro_batch_tokens", [1, 40, 16384])
def test_loss_and_gradient_are_those_of_the_method(tiny_dir: Path, aggregation: str, micro_batch_tokens: int) -> None:
    step = settings(aggregation=aggregation, micro_batch_tokens=micro_batch_tokens)
    made = rows()
    expected_loss, expected = reference(recorder(tiny_dir, step), made, step)
    one = recorder(tiny_dir, step)
    metrics = train_step(one, made, step, StageClock())
    assert metrics.loss == pytest.approx(expected_loss, rel=1e-4)
    assert one.gradients.keys() == expected.keys()
    for name, gradient in one.gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-7)
    norm = torch.stack([each.norm() for each in expected.values()]).norm()
    assert metrics.grad_norm == pytest.approx(float(norm), rel=1e-3)


@pytest.mark.parametrize("micro_batch_tokens", [1, 16384])
def test_full_weights_have_the_gradient_of_the_method(tiny_dir: Path, micro_batch_tokens: int) -> None:
    """The output layer is the embedding, and differs between student and teacher."""
    step = settings(micro_batch_tokens=micro_batch_tokens)
    made = rows()
    expected_loss, expected = reference(recorder(tiny_dir, step, "float32"), made, step)
    one = recorder(tiny_dir, step, "float32")
    metrics = train_step(one, made, step, StageClock())
    assert metrics.loss == pytest.approx(expected_loss, rel=1e-4)
    assert "model.embed_tokens.weight" in expected
    assert one.gradients.keys() == expected.keys()
    for name, gradient in one.gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-6)


def test_in_bf16_gradients_of_full_weights_differ_by_rounding(tiny_dir: Path) -> None:
    step = settings(micro_batch_tokens=40)
    exact, rounded = recorder(tiny_dir, step, "float32"), recorder(tiny_dir, step, "bfloat16")
    for one in (exact, rounded):
        train_step(one, rows(), step, StageClock())
    assert {each.dtype for each in rounded.gradients.values()} == {torch.float32}
    found, wanted = (torch.cat([each.flatten() for each in one.gradients.values()]) for one in (rounded, exact))
    assert float((found - wanted).norm()) < 0.15 * float(wanted.norm())


def test_metrics_count_samples_and_tokens(tiny_dir: Path) -> None:
    made = rows()
    metrics = train_step(learner(tiny_dir, settings()), made, settings(), StageClock())
    active = [row for row in made if row.active]
    assert metrics.active_share == len(active) / len(made)
    assert metrics.tokens == sum(len(row.response) for row in active)
    assert metrics.skipped_updates == 0
    assert 0 < metrics.effective_sample_share <= 1
    assert {"teacher", "student", "optimizer"} <= metrics.seconds.keys()


def test_engine_and_trainer_agree_when_log_probs_are_the_trainer_s(tiny_dir: Path) -> None:
    one = learner(tiny_dir, settings())
    made = []
    for row in rows():
        with torch.no_grad():
            logprobs = token_logprobs(one.model.network, [row.prompt], [row.response])[0]
        made.append(replace(row, logprobs=tuple(logprobs.tolist())))
    metrics = train_step(one, made, settings(), StageClock())
    assert metrics.delta_logprob == pytest.approx(0, abs=1e-4)
    assert metrics.effective_sample_share == pytest.approx(1, abs=1e-4)


def test_the_same_rows_give_the_same_bits(tiny_dir: Path) -> None:
    step = settings(mini_batches=2, micro_batch_tokens=60, ema_rate=0.1)
    states = []
    for _ in range(2):
        one = learner(tiny_dir, step)
        for seed in range(3):
            run(one, rows(seed=seed), step)
        states.append(one.state())
    first, second = states
    for left, right in (
        (first.published, second.published),
        (first.teacher, second.teacher),
        (first.optimizer, second.optimizer),
    ):
        assert all(torch.equal(left[name], right[name]) for name in left)


def test_each_mini_batch_is_an_update(tiny_dir: Path) -> None:
    for count in (1, 2, 3):
        one = learner(tiny_dir, settings(mini_batches=count))
        run(one, rows(), settings(mini_batches=count))
        assert one.phase_updates == count


def test_a_batch_with_nothing_to_learn_makes_no_update(tiny_dir: Path) -> None:
    one = learner(tiny_dir, settings())
    before = one.state()
    metrics = train_step(one, [replace(row, active=False) for row in rows()], settings(), StageClock())
    assert (metrics.loss, metrics.tokens, metrics.active_share, metrics.skipped_updates) == (0, 0, 0, 0)
    assert all(torch.equal(each, before.published[name]) for name, each in one.state().published.items())
    assert one.phase_updates == 0


def test_broken_weights_skip_updates_and_then_end_the_step(tiny_dir: Path) -> None:
    step = settings(max_skipped_updates=3)
    one = learner(tiny_dir, step)
    with torch.no_grad():
        one.model.parameters[0].fill_(float("nan"))
    for skipped in (1, 2):
        metrics = train_step(one, rows(), step, StageClock())
        assert (metrics.skipped_updates, one.skipped_in_row, one.phase_updates) == (1, skipped, 0)
        assert metrics.loss == 0
    with pytest.raises(NonFiniteError, match="3 updates in a row"):
        run(one, rows(), step)


def test_a_lost_right_to_write_ends_the_step(tiny_dir: Path) -> None:
    def lost() -> None:
        raise FencedError("another trainer")

    with pytest.raises(FencedError):
        train_step(learner(tiny_dir, settings()), rows(), settings(), StageClock(), lost)


def test_the_student_learns_what_its_teacher_is_shown(tiny_dir: Path) -> None:
    """The teacher's prompt repeats the answer; a tiny model that copies is made by first training it to copy."""
    tokenizer = load_tokenizer(tiny_dir, None)
    step = settings(learning_rate=2e-2, ema_rate=0.01, is_clip=1e9, top_k="all")
    one = learner(tiny_dir, step)
    group = group_of(tokenizer, "2+2?", ["41", "40", "73"])
    made, _ = training_rows([group], tokenizer, context_tokens=256, shorten=False)
    copy_answer(one, list(made[0].teacher_prompt), encode(tokenizer, "41"))
    one.begin_phase()
    question, answer = render(tokenizer, group.messages), encode(tokenizer, "41")

    def seen() -> float:
        with torch.no_grad():
            return float(token_logprobs(one.model.network, [question], [answer]).sum())

    before, losses = seen(), []
    for _ in range(30):
        losses.append(train_step(one, made, step, StageClock()).loss)
    assert losses[-1] < 0.3 * losses[0]
    assert seen() > before + 1.0


def copy_answer(one: Learner, prompt: list[int], answer: list[int]) -> None:
    optimizer = torch.optim.AdamW(one.model.parameters, lr=1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        (-token_logprobs(one.model.network, [prompt], [answer]).sum()).backward()
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
