"""What is trained without a run's queues, by two ranks as by one: specialists, and a replay."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from services.trainer.offline.finetuning import finetune
from shared.config.loading import to_toml, validate
from shared.modeling.loading import load_model
from tests.integration.test_trainer_service import prepared
from tests.ranks.part import TUNING, tuning_model, tuning_rows
from tests.ranks.started import run_ranks
from tests.unit.modeling.tiny_model import write_tiny_model
from tests.unit.trainer.ground import STUDENT, seal_steps

pytestmark = pytest.mark.timeout(900)

STARTED_S = 300.0
"""Of a program and its two ranks, on a machine that does other work meanwhile."""


def run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"services.trainer.offline.{module}", "--student", STUDENT, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=STARTED_S, check=False)


@pytest.mark.parametrize("count", [5, 1])
def test_two_ranks_fine_tune_as_one(tmp_path: Path, tiny_dir: Path, count: int) -> None:
    """Of one row a rank has no part of any batch."""
    run_ranks(2, tmp_path, "finetune", str(tmp_path), str(tiny_dir), str(count))
    losses: list[float] = []
    model = tuning_model(tiny_dir)
    finetune(model, tuning_rows(count), TUNING, 0, lambda done: losses.append(done.loss), limit_tokens=30)
    assert json.loads((tmp_path / "losses.json").read_text()) == pytest.approx(losses, rel=1e-4)
    found = load_file(tmp_path / "adapter.safetensors")
    for name, each in model.trained.tensors().items():
        torch.testing.assert_close(found[name], each, rtol=1e-3, atol=1e-5)


def test_a_loss_that_is_no_number_on_one_rank_stops_both(tmp_path: Path, tiny_dir: Path) -> None:
    run_ranks(2, tmp_path, "finetune-nan", str(tmp_path), str(tiny_dir))
    for rank in range(2):
        assert "lower specialize.learning_rate" in (tmp_path / f"said-{rank}").read_text()


@pytest.mark.usefixtures("forking")
def test_a_specialist_of_two_ranks_is_that_of_one_under_the_same_name(tmp_path: Path) -> None:
    base = write_tiny_model(tmp_path / "base", context=1024)
    examples = tmp_path / "examples.jsonl"
    examples.write_text(
        "".join(
            json.dumps({"messages": [{"role": "user", "content": f"{n}+{n}?"}], "completion": str(2 * n)}) + "\n"
            for n in range(7)
        )
    )
    student = {"model": str(base), "chat_template": "compact", "dtype": "float32", "specialize": True}
    tree = {
        "lora": {"rank": 4, "first_layer": 0},
        "specialize": {"learning_rate": 0.01, "batch_size": 4, "epochs": 2},
        "students": {"a": student | {"domain": "physics"}, "b": student | {"domain": "chemistry"}},
        "trainer": {"ranks": 2},
    }
    (tmp_path / "config.toml").write_text(to_toml(validate(tree)))

    def made(cache: Path, *more: str) -> tuple[Path, bool, Sequence[str]]:
        places = ("--run-dir", str(tmp_path), "--cache-dir", str(cache), "--examples", str(examples))
        done = run("specializing", *places, *more)
        assert done.returncode == 0, done.stderr
        said = [line for line in done.stdout.splitlines() if line.startswith("{")]
        assert len(said) == 1, done.stdout
        result = json.loads(said[0])
        return Path(result["path"]), result["cached"], done.stdout.splitlines()

    two, cached, said = made(tmp_path / "two")
    assert not cached and any(line.endswith(", 2 ranks") for line in said)
    assert made(tmp_path / "two")[:2] == (two, True)
    one, cached, said = made(tmp_path / "one", "--ranks", "1")
    assert not cached and not any(line.endswith(" ranks") for line in said)
    assert one.name == two.name
    wanted, found, before = (load_file(each / "model.safetensors") for each in (one, two, base))
    for name, each in wanted.items():
        torch.testing.assert_close(found[name], each, rtol=1e-3, atol=1e-5)
    assert any(not torch.equal(found[name], before[name].float()) for name in found)
    assert load_model(two, "float32").config.num_hidden_layers == 2


@pytest.mark.usefixtures("forking")
@pytest.mark.parametrize("weights", ["lora", "full"])
def test_two_ranks_replay_what_one_does(tmp_path: Path, tiny_dir: Path, weights: str) -> None:
    source = prepared(tmp_path / "source", tiny_dir)
    seal_steps(source, tiny_dir, 2)
    steps = {}
    for ranks in (1, 2):
        settings = (f"trainer.ranks={ranks}", f"run.weights={weights}", "students.a.dtype=float32")
        out = prepared(tmp_path / f"out-{ranks}", tiny_dir, "run.schedule=sequential", *settings)
        done = run("replaying", "--batches", str(source), "--out", str(out))
        assert done.returncode == 0, done.stderr
        steps[ranks] = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    for one, two in zip(steps[1], steps[2], strict=True):
        assert (one["step"], one["version"]) == (two["step"], two["version"])
        assert (one["loss"], one["grad_norm"]) == pytest.approx((two["loss"], two["grad_norm"]), rel=1e-3)
    assert [each["step"] for each in steps[2]] == [1, 2]
