"""Blocks whose pass is made again in the backward pass: the same step, with less kept for it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import GPTNeoXJapaneseConfig, GPTNeoXJapaneseForCausalLM

from services.trainer.model.model import StudentModel
from services.trainer.model.trained import TrainedAdapter, TrainedModel
from services.trainer.step.step import StageClock, StepSettings, train_step
from services.trainer.step.trees import Tree
from shared.config.baselines import GrpoSection
from shared.errors import ModelError
from shared.modeling.adapters import LoraSpec
from shared.modeling.loading import Dtype, load_model
from tests.unit.trainer.ground import rows, settings
from tests.unit.trainer.step.test_step import recorder

ANCHORED = replace(settings(mini_batches=2), method="grpo", grpo=GrpoSection(anchor=0.1))


@pytest.mark.parametrize("full", [None, "float32", "bfloat16"])
@pytest.mark.parametrize("step", [settings(micro_batch_tokens=40), ANCHORED], ids=["opcod", "anchored grpo"])
def test_a_step_comes_out_the_same(tiny_dir: Path, step: StepSettings, full: Dtype | None) -> None:
    kept, again = (recorder(tiny_dir, step, full, recompute=recompute) for recompute in (False, True))
    made = [replace(row, advantage=0.5 - row.sample) for row in rows()]
    expected, found = (train_step(one, made, step, StageClock()) for one in (kept, again))
    assert found.loss == pytest.approx(expected.loss, rel=1e-6)
    assert again.gradients.keys() == kept.gradients.keys()
    for name, gradient in again.gradients.items():
        assert bool(gradient.any()) or not bool(kept.gradients[name].any())
        torch.testing.assert_close(gradient, kept.gradients[name], rtol=1e-5, atol=1e-8)


def test_a_block_keeps_its_input_alone(tiny_dir: Path) -> None:
    """Both blocks are adapted; without that, the second would keep nothing either way."""
    kept = _kept(tiny_dir, recompute=False)
    assert 0 < _kept(tiny_dir, recompute=True) < kept / 4


def _kept(directory: Path, *, recompute: bool) -> int:
    """Bytes that a pass over 200 tokens saves for the backward pass, without the weights."""
    trained = TrainedAdapter(load_model(directory, "float32"), LoraSpec(4, 2.0), seed=0)
    model, tree, saved = StudentModel(trained, recompute=recompute), Tree(), {}
    tree.insert(list(range(200)))

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    weights = {each.untyped_storage().data_ptr() for each in model.network.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = model.hidden([tree], [(0, 199)])
    assert hidden.requires_grad
    return sum(size for pointer, size in saved.items() if pointer not in weights)


def test_a_model_without_blocks_is_refused(tmp_path: Path) -> None:
    config = GPTNeoXJapaneseConfig(
        vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=64
    )
    base = GPTNeoXJapaneseForCausalLM(config).eval()
    with pytest.raises(
        ModelError, match=r"blocks that are marked as such .* gpt_neox_japanese, found none; set trainer"
    ):
        StudentModel(TrainedModel(base, tmp_path), recompute=True)
