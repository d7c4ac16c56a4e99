"""What only a GPU can tell of a trainer: a tiny model's step there is that of a CPU but for rounding, and its own bits
each time. Needs no vLLM."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from services.trainer.device import set_up
from services.trainer.model.learner import Learner
from services.trainer.offline.finetuning import TuningRow, finetune
from services.trainer.step.step import StageClock, StepSettings, train_step
from services.trainer.step.trees import Tree
from shared.config.loading import load_settings
from shared.config.specializing import SpecializeSection
from shared.gpus import gpus_here
from shared.modeling.loading import Dtype, load_model
from shared.obs.usage import UsageMeter, gpus_given
from tests.unit.modeling.tiny_model import write_tiny_model
from tests.unit.trainer.ground import learner, rows, settings

pytestmark = [pytest.mark.model, pytest.mark.timeout(300)]

STEP = settings(mini_batches=2, ema_rate=0.1)


@pytest.fixture(scope="module", autouse=True)
def _repeatable() -> Iterator[None]:
    """An operation without an algorithm that repeats is an error here. conftest.py tells cuBLAS."""
    set_up(load_settings(preset="smoke", overrides=["trainer.deterministic=true"], environ={}), "cuda")
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


def trained(one: Learner, step: StepSettings = STEP) -> dict[str, torch.Tensor]:
    """What is trained after a step, in fp32, on the CPU."""
    assert math.isfinite(train_step(one, rows(), step, StageClock()).loss)
    return {name: each.detach().cpu().clone() for name, each in one.model.named_parameters.items()}


def test_a_model_is_loaded_onto_the_gpu(model_dir: Path) -> None:
    here, there = load_model(model_dir, "bfloat16"), load_model(model_dir, "bfloat16", "cuda")
    assert not there.training
    for name, each in there.named_parameters():
        assert each.device.type == "cuda"
        assert torch.equal(each.cpu(), here.get_parameter(name))


@pytest.mark.parametrize("full", [None, "float32"])
def test_a_step_is_that_of_a_cpu_but_for_rounding(model_dir: Path, full: Dtype | None) -> None:
    on_cpu, on_gpu = (trained(learner(model_dir, STEP, full=full, device=device)) for device in ("cpu", "cuda"))
    for name, each in on_gpu.items():
        # AdamW's first steps are of the learning rate, 0.01, wherever the gradient is more than rounding.
        close = torch.isclose(each, on_cpu[name], rtol=1e-3, atol=1e-3).float().mean()
        assert close > 0.98, name


@pytest.mark.parametrize("full", [None, "bfloat16"])
def test_a_step_has_the_same_bits_each_time(model_dir: Path, full: Dtype | None) -> None:
    first, second = (trained(learner(model_dir, STEP, full=full, adapter="bfloat16", device="cuda")) for _ in range(2))
    assert all(torch.equal(each, second[name]) for name, each in first.items())


def test_a_specialist_s_updates_have_the_same_bits_each_time(model_dir: Path) -> None:
    examples = [TuningRow(tuple(range(at, at + 9)), (at, at + 1, at + 2)) for at in range(12)]

    def tuned() -> list[torch.Tensor]:
        model = learner(model_dir, STEP, adapter="bfloat16", device="cuda").model
        finetune(model, examples, SpecializeSection(batch_size=6), 0, lambda _: None, limit_tokens=30)
        return [each.detach().cpu() for each in model.parameters]

    assert all(torch.equal(one, other) for one, other in zip(tuned(), tuned(), strict=True))


def test_a_step_comes_out_the_same_when_blocks_are_recomputed(model_dir: Path) -> None:
    kept, again = (trained(learner(model_dir, STEP, recompute=each, device="cuda")) for each in (False, True))
    for name, each in again.items():
        torch.testing.assert_close(each, kept[name], rtol=1e-4, atol=1e-5)


def test_recomputing_takes_less_memory(model_dir: Path) -> None:
    def peak(*, recompute: bool) -> int:
        one = learner(model_dir, STEP, recompute=recompute, device="cuda")
        trees = [Tree() for _ in range(64)]
        for tree in trees:
            tree.insert([token % 250 for token in range(256)])
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        one.model.hidden(trees, [(at, 255) for at in range(64)]).sum().backward()
        return torch.cuda.max_memory_allocated() - before

    assert peak(recompute=True) < 0.7 * peak(recompute=False)


@pytest.mark.parametrize("full", [None, "bfloat16"])
def test_moments_on_the_host_make_the_same_updates_bit_for_bit(model_dir: Path, full: Dtype | None) -> None:
    plain, hosted = (
        learner(model_dir, settings(mini_batches=2, ema_rate=0.1, offload=each), full=full, device="cuda")
        for each in ("none", "moments")
    )
    for _ in range(2):
        first, second = trained(plain), trained(hosted)
        assert all(torch.equal(each, second[name]) for name, each in first.items())
    for moments in hosted._optimizer.state.values():
        assert {each.device.type for each in moments.values()} == {"cpu"}
        assert all(each.is_pinned() for each in moments.values())


def test_the_optimizer_is_one_kernel_and_its_state_goes_on(model_dir: Path) -> None:
    one, other = (learner(model_dir, STEP, device="cuda") for _ in range(2))
    assert one._optimizer.defaults["fused"] is True
    trained(one)
    other.load(one.state())
    first, second = trained(one), trained(other)
    assert all(torch.equal(each, second[name]) for name, each in first.items())


def test_a_service_says_how_much_of_its_gpus_is_in_use() -> None:
    held = torch.zeros(2**28, dtype=torch.uint8, device="cuda")
    used = UsageMeter(gpus=gpus_given()).read()
    assert used is not None and used.gpus is not None and used.gpu_bytes is not None
    assert 0 <= used.gpus <= gpus_here() and used.gpu_bytes > held.numel()
