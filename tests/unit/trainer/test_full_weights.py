"""Training all weights: exact ones in fp32 beside the rounded ones that the model computes with."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from services.student.engines.port import GenerationRequest
from services.student.engines.transformers import TransformersEngine
from services.trainer.model.learner import Learner
from services.trainer.step.step import StageClock, train_step
from services.trainer.trainer import StudentTrainer
from shared.contracts.messages import ChatMessage, Sampling
from shared.contracts.weights import WeightsManifest
from shared.errors import FencedError, ModelError
from shared.modeling.adapters import checksum
from shared.modeling.checksums import file_checksum
from shared.modeling.loading import Dtype, load_model, load_tokenizer
from shared.modeling.logprobs import token_logprobs
from shared.modeling.versions import version_tensors
from tests.unit.trainer.ground import OpenFence, learner, rows, seal_steps, settings, student_trainer

DTYPES: tuple[Dtype, ...] = ("bfloat16", "float32")


def equal(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(each, right[name]) for name, each in left.items())


def applied(trainer: StudentTrainer, run_dir: Path, tiny_dir: Path, steps: int) -> StudentTrainer:
    trainer.restore()
    for sealed in seal_steps(run_dir, tiny_dir, steps)[trainer.step :]:
        trainer.apply(sealed, OpenFence())
        trainer.publish()
    return trainer


def test_updates_too_small_for_bf16_add_up(tiny_dir: Path) -> None:
    """2^-10 of a weight near 1 is lost in bf16 (8 bits); sixteen of them are not."""
    one = learner(tiny_dir, settings(learning_rate=2**-10, weight_decay=0, clip_norm=1e9), full="bfloat16")
    name = "model.norm.weight"
    start = one.model.trained.tensors()[name].clone()
    for update in range(16):
        for parameter in one.model.parameters:
            parameter.grad = torch.ones_like(parameter)
        one.update()
        if update == 0:
            assert torch.equal(one.model.trained.tensors()[name], start)
    moved = one.model.trained.tensors()[name]
    assert moved.dtype == torch.bfloat16
    torch.testing.assert_close(moved.float(), start.float() - 16 * 2**-10, atol=2**-8, rtol=0)


@pytest.mark.parametrize("full", DTYPES)
def test_the_model_computes_with_its_exact_weights_rounded(tiny_dir: Path, full: Dtype) -> None:
    step = settings(mini_batches=2, ema_rate=0.5)
    one = learner(tiny_dir, step, full=full)
    train_step(one, rows(), step, StageClock())
    state = one.state()
    assert set(state.exact) == (set(state.published) if full == "bfloat16" else set())
    for name, each in state.exact.items():
        assert torch.equal(each.to(torch.bfloat16), state.published[name])
    assert all(each.dtype == torch.float32 for each in state.teacher.values())
    assert not equal(state.teacher, {name: each.float() for name, each in state.published.items()})


def test_the_teacher_s_logits_are_those_of_a_model_of_its_own(tiny_dir: Path) -> None:
    one: Learner = learner(tiny_dir, settings(ema_rate=0.3), full="float32")
    for parameter in one.model.parameters:
        parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    one.update()
    apart = load_model(tiny_dir, "float32")
    apart.load_state_dict(one.teacher.tensors(), strict=False)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad(), one.teacher.standing_in():
        hidden = one.model.network.model(ids).last_hidden_state[0]
    with torch.no_grad():
        wanted = apart(ids).logits[0]
    torch.testing.assert_close(one.teacher.output_layer(1.0).logits(hidden), wanted, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(one.model.output_layer(1.0).logits(hidden).detach(), wanted, atol=1e-2)


@pytest.mark.parametrize("full", DTYPES)
def test_a_new_process_goes_on_bit_for_bit(tmp_path: Path, tiny_dir: Path, full: Dtype) -> None:
    step = settings(mini_batches=2, ema_rate=0.1)
    whole = applied(student_trainer(tmp_path / "whole", tiny_dir, step, full=full), tmp_path / "whole", tiny_dir, 3)
    halves = tmp_path / "halves"
    for steps in (1, 3):
        last = applied(student_trainer(halves, tiny_dir, step, full=full), halves, tiny_dir, steps)
    assert [last.done(each).checksum for each in (1, 2, 3)] == [whole.done(each).checksum for each in (1, 2, 3)]
    assert equal(last._work.learner.state().teacher, whole._work.learner.state().teacher)
    assert equal(last._work.learner.state().exact, whole._work.learner.state().exact)


@pytest.mark.parametrize("full", DTYPES)
def test_a_version_is_a_model_that_an_engine_serves(tmp_path: Path, tiny_dir: Path, full: Dtype) -> None:
    trainer = applied(student_trainer(tmp_path, tiny_dir, full=full), tmp_path, tiny_dir, 2)
    directory = tmp_path / "weights" / "a" / "v000002"
    manifest = WeightsManifest.model_validate_json((directory / "manifest.json").read_bytes())
    assert manifest.kind == "full"
    assert file_checksum(directory / "model.safetensors") == manifest.checksum == trainer.done(2).checksum
    assert equal(version_tensors(directory, manifest), trainer._work.learner.state().published)
    assert load_tokenizer(directory, None).eos_token_id is not None
    engine = TransformersEngine(tiny_dir, None, full, slots=2, threads=1)
    assert engine.load("a@v2", directory) == manifest.checksum
    question = (ChatMessage(role="user", content="3+4?"),)
    (said,) = engine.generate(
        [GenerationRequest("a@v2", question, Sampling(temperature=1.0, top_p=1.0, max_tokens=8), seed=1)]
    )
    with torch.no_grad():
        expected = token_logprobs(load_model(directory, full), [said.prompt_token_ids], [said.token_ids])
    assert said.logprobs == pytest.approx(expected[0].tolist(), abs=5e-2 if full == "bfloat16" else 2e-3)


def test_an_abandoned_first_step_takes_the_model_back_to_its_own_weights(tmp_path: Path, tiny_dir: Path) -> None:
    trainer = student_trainer(tmp_path, tiny_dir, full="bfloat16")
    trainer.restore()
    start = trainer._work.learner.state()
    for parameter in trainer._work.learner.model.parameters:
        parameter.grad = torch.ones_like(parameter)
    trainer._work.learner.update()
    assert not equal(trainer._work.learner.state().published, start.published)
    trainer._reload()
    again = trainer._work.learner.state()
    assert equal(again.published, start.published)
    assert equal(again.exact, start.exact)
    assert equal(again.teacher, start.teacher)
    assert again.phase_updates == 0


def test_weights_of_another_model_are_refused(tiny_dir: Path) -> None:
    one = learner(tiny_dir, settings(), full="float32")
    state = one.state()
    name, tensor = next(iter(state.published.items()))
    with pytest.raises(ModelError, match=f"differ in {name}"):
        one.model.set_tensors({**state.published, name: tensor[:-1]}, {})


@pytest.mark.parametrize("full", [None, "bfloat16"])
@pytest.mark.parametrize("killed_after", [1, 2, 3, 4])
def test_between_whole_checkpoints_the_state_is_made_again_bit_for_bit(
    tmp_path: Path, tiny_dir: Path, full: Dtype | None, killed_after: int
) -> None:
    every, seldom = settings(mini_batches=2), settings(mini_batches=2, checkpoint_every=2)
    whole = applied(student_trainer(tmp_path / "every", tiny_dir, every, full=full), tmp_path / "every", tiny_dir, 5)
    run_dir = tmp_path / "seldom"
    for steps in (killed_after, 5):
        last = applied(student_trainer(run_dir, tiny_dir, seldom, full=full), run_dir, tiny_dir, steps)
        last._reload()
    assert [last.done(each).checksum for each in range(1, 6)] == [whole.done(each).checksum for each in range(1, 6)]
    assert equal(last._work.learner.state().teacher, whole._work.learner.state().teacher)
    assert equal(last._work.learner.state().optimizer, whole._work.learner.state().optimizer)
    names = sorted(path.name for path in (run_dir / "checkpoints" / "a").iterdir())
    assert names == ["k000002", "k000004", "k000005"]


def test_a_broken_whole_checkpoint_is_made_up_for_by_an_older_one(tmp_path: Path, tiny_dir: Path) -> None:
    step = settings(checkpoint_every=2)
    whole = applied(student_trainer(tmp_path, tiny_dir, step), tmp_path, tiny_dir, 5)
    (tmp_path / "checkpoints" / "a" / "k000004" / "teacher.safetensors").write_bytes(b"lost")
    again = student_trainer(tmp_path, tiny_dir, step)
    said: list[str] = []
    again.restore(said.append)
    assert said == ["reading the checkpoint", *(f"making step {each} again, up to 5" for each in (3, 4, 5))]
    assert again.step == 5
    assert equal(again._work.learner.state().teacher, whole._work.learner.state().teacher)


class ShutFence(OpenFence):
    def check(self) -> None:
        raise FencedError("another trainer went on")


def test_a_trainer_that_must_stop_makes_nothing_again_first(tmp_path: Path, tiny_dir: Path) -> None:
    trainer = student_trainer(tmp_path, tiny_dir, settings(checkpoint_every=9))
    trainer.restore()
    first, second = seal_steps(tmp_path, tiny_dir, 2)
    trainer.apply(first, OpenFence())
    (tmp_path / first.uri).rename(tmp_path / "gone")  # made again, the step would be refused
    with pytest.raises(FencedError):
        trainer.apply(second, ShutFence())


def test_on_another_machine_training_goes_on_from_the_version_that_was_published(
    tmp_path: Path, tiny_dir: Path
) -> None:
    """Another loss stands for other rounding: steps made again come out otherwise."""
    applied(student_trainer(tmp_path, tiny_dir, settings(checkpoint_every=2)), tmp_path, tiny_dir, 3)
    again = student_trainer(tmp_path, tiny_dir, settings(checkpoint_every=2, alpha=1.0))
    again.restore()
    assert again.checkpoint is not None
    assert checksum(again._work.learner.model.trained.tensors()) == again.checkpoint.weights.checksum
