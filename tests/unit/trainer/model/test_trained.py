"""An adapter in the type that it is served in: what is published is what was computed with."""

from pathlib import Path

import pytest
import torch

from services.trainer.config import TrainingConfig
from services.trainer.step.step import StageClock, train_step
from services.trainer.trainer import StudentTrainer
from shared.config.loading import load_settings
from shared.contracts.models import PreparedModel
from shared.files.store import write_file
from shared.modeling.adapters import attach_lora, load_adapter, set_adapter_tensors
from shared.modeling.checksums import file_checksum
from shared.modeling.loading import Dtype, load_model
from tests.unit.trainer.ground import BASE_SHA256, OpenFence, learner, rows, seal_steps, settings, student_trainer

IDS = torch.arange(40).view(2, 20)


@pytest.mark.parametrize("adapter", ["bfloat16", "float32"])
def test_the_served_version_is_the_trained_one(tmp_path: Path, tiny_dir: Path, adapter: Dtype) -> None:
    step = settings(mini_batches=2)
    one = learner(tiny_dir, step, adapter=adapter)
    train_step(one, rows(), step, StageClock())
    for name, content in one.model.trained.files(one.state().published, BASE_SHA256).items():
        write_file(tmp_path / name, content)
    tensors, spec = load_adapter(tmp_path)
    assert spec.dtype == adapter
    served = attach_lora(load_model(tiny_dir, adapter), spec, seed=0)
    set_adapter_tensors(served, tensors)
    with torch.no_grad():
        one.model._use_attention(False)
        served.get_base_model().set_attn_implementation(one.model.config._attn_implementation)
        assert torch.equal(served(input_ids=IDS).logits, one.model.network(input_ids=IDS).logits)
        plain = load_model(tiny_dir, adapter)
        assert not torch.equal(plain(input_ids=IDS).logits, one.model.network(input_ids=IDS).logits)


def test_updates_too_small_for_the_served_type_add_up(tiny_dir: Path) -> None:
    """2^-10 of a weight near 1 is lost in bf16 (8 bits); sixteen of them are not."""
    one = learner(tiny_dir, settings(learning_rate=2**-10, weight_decay=0, clip_norm=1e9), adapter="bfloat16")
    name, exact = next((name, each) for name, each in one.model.named_parameters.items() if "lora_A" in name)
    with torch.no_grad():
        exact.fill_(1.0)
    one.model.round()
    for update in range(16):
        for parameter in one.model.parameters:
            parameter.grad = torch.ones_like(parameter)
        one.update()
        own = one.model.network.get_parameter(name)
        assert own.dtype == torch.bfloat16
        if update == 0:
            assert bool((own == 1.0).all())
    torch.testing.assert_close(own.float(), torch.full_like(exact, 1 - 16 * 2**-10), atol=2**-8, rtol=0)


def test_gradients_of_micro_batches_are_summed_in_fp32(tiny_dir: Path) -> None:
    step = settings(micro_batch_tokens=40)
    one = learner(tiny_dir, step, adapter="bfloat16")
    assert one.model.rounds
    assert {each.dtype for each in one.model.parameters} == {torch.float32}
    train_step(one, rows(), step, StageClock())
    assert {each.dtype for each in one.state().optimizer.values()} == {torch.float32}
    assert {each.dtype for each in one.state().published.values()} == {torch.bfloat16}


def test_a_new_process_goes_on_bit_for_bit(tmp_path: Path, tiny_dir: Path) -> None:
    step = settings(mini_batches=2, ema_rate=0.1)

    def applied(run_dir: Path, steps: int) -> StudentTrainer:
        trainer = student_trainer(run_dir, tiny_dir, step, adapter="bfloat16")
        trainer.restore()
        for sealed in seal_steps(run_dir, tiny_dir, steps)[trainer.step :]:
            trainer.apply(sealed, OpenFence())
            trainer.publish()
        return trainer

    whole = applied(tmp_path / "whole", 3)
    applied(tmp_path / "halves", 1)
    halves = applied(tmp_path / "halves", 3)
    assert [halves.done(each).checksum for each in (1, 2, 3)] == [whole.done(each).checksum for each in (1, 2, 3)]
    file = tmp_path / "whole" / "weights" / "a" / "v000003" / "adapter_model.safetensors"
    assert file_checksum(file) == whole.done(3).checksum


@pytest.mark.parametrize(
    ("engine", "dtype", "computed"),
    [
        ("vllm", "bfloat16", "bfloat16"),
        ("vllm", "float32", "float32"),
        ("transformers", "bfloat16", "float32"),
        ("scripted", "bfloat16", "float32"),
    ],
)
def test_only_a_server_that_computes_with_the_adapter_decides_its_type(engine: str, dtype: str, computed: str) -> None:
    overrides = [f"students.a.engine={engine}", f"students.a.dtype={dtype}"]
    chosen = load_settings(preset="smoke", overrides=overrides, environ={})
    lora = TrainingConfig("r1", "a", chosen, PreparedModel(path=Path("/m"), sha256=BASE_SHA256)).lora
    assert lora is not None and lora.dtype == computed
