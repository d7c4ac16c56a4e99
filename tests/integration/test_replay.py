"""Replaying a run from its sealed batches alone, through the command: the same weights bit for bit, or other ones."""

import hashlib
import shutil
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from shared.config.loading import load_settings, to_toml
from shared.contracts.models import PreparedModel
from shared.contracts.traces import StepTrace
from shared.files.store import LocalStore

pytest.importorskip("torch")

import torch

from opcod.commands.replay import promise
from opcod.main import app
from services.trainer.app import build_trainer
from services.trainer.checkpoint import Checkpoints
from services.trainer.config import training_config
from services.trainer.offline.replaying import replay, sealed_batches
from services.trainer.trainer import StepRefusedError
from shared.config.loading import read_toml, validate
from shared.errors import StorageError
from tests.unit.modeling.tiny_model import write_tiny_model
from tests.unit.trainer.ground import BASE_SHA256, RUN, STUDENT, OpenFence, seal_steps

STEPS = 3
SETTINGS = (
    "lora.first_layer=1",
    "lora.rank=4",
    "optimizer.mini_batches=2",
    "students.a.dtype=float32",
    "students.a.chat_template=none",
    "students.b.chat_template=none",
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`r1`: three batches, and the versions that its trainer made of them."""
    base = write_tiny_model(tmp_path_factory.mktemp("tiny"))
    runs_dir = tmp_path_factory.mktemp("runs")
    run_dir = runs_dir / RUN
    (run_dir / "models").mkdir(parents=True)
    (run_dir / "config.toml").write_text(
        to_toml(load_settings(preset="smoke", overrides=[*SETTINGS, "optimizer.learning_rate=1e-2"], environ={}))
    )
    for name in ("a", "b"):
        model = PreparedModel(path=base, sha256=BASE_SHA256)
        (run_dir / "models" / f"{name}.json").write_text(model.model_dump_json())
    store = LocalStore(run_dir)
    config = training_config(validate(read_toml(run_dir / "config.toml")), RUN, run_dir, STUDENT)
    # As the trainer's process does: over another number of threads sums round otherwise, and a replay differs.
    torch.set_num_threads(config.settings.threads_on("cpu", 1))
    checkpoints = Checkpoints(store, run=RUN, student=STUDENT, base_sha256=BASE_SHA256)
    trainer = build_trainer(config, store, checkpoints, threading.Event())
    trainer.restore()
    for sealed in seal_steps(run_dir, base, STEPS):
        trainer.apply(sealed, OpenFence())
        trainer.publish()
    return runs_dir


def replayed(runs: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["replay", RUN, "--runs-dir", str(runs), *arguments])


def weights(run_dir: Path) -> dict[str, str]:
    files = sorted((run_dir / "weights").rglob("*.safetensors"))
    return {str(path.relative_to(run_dir)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_every_version_comes_out_as_recorded(runs: Path) -> None:
    before = weights(runs / RUN)
    result = replayed(runs, "--into", "again")
    assert result.exit_code == 0, result.output
    assert result.output.count("as recorded, loss") == STEPS
    assert "Replayed on the CPU with resources.threads = 1: bit for bit" in result.output
    assert weights(runs / "again") == before == weights(runs / RUN)
    assert len(before) == len(set(before.values())) == STEPS


@pytest.mark.usefixtures("forking")
def test_traces_can_be_made_afterwards_and_change_nothing(runs: Path) -> None:
    result = replayed(runs, "--set", "loss.trace_share=1", "--into", "traced")
    assert result.exit_code == 0, result.output
    assert result.output.count("as recorded, loss") == STEPS
    found = StepTrace.model_validate_json((runs / "traced" / "traces" / STUDENT / "s00003.json").read_bytes())
    assert (found.run, found.step, found.share) == (RUN, 3, 1.0)
    assert [len(rollout.tokens) for rollout in found.rollouts] == [2, 2, 2, 2]


@pytest.mark.usefixtures("forking")
def test_what_a_trainer_makes_of_its_device_changes_nothing(runs: Path) -> None:
    result = replayed(runs, "--set", "trainer.recompute=true", "--into", "recomputed")
    assert result.exit_code == 0, result.output
    assert result.output.count("as recorded, loss") == STEPS


@pytest.mark.parametrize(
    ("device", "deterministic", "promised"),
    [
        ("cpu", "false", "on the CPU with resources.threads = 1: bit for bit, where"),
        (
            "cuda",
            "true",
            "on the GPU with algorithms that repeat: bit for bit, where the run trained so on one like it.",
        ),
        (
            "cuda",
            "auto",
            "on the GPU with algorithms that repeat: bit for bit, where the run trained so on one like it.",
        ),
        ("cuda", "false", "on the GPU with trainer.deterministic = false: the same but for rounding"),
    ],
)
def test_it_says_what_it_can_promise(device: str, deterministic: str, promised: str) -> None:
    settings = load_settings(preset="smoke", overrides=[f"trainer.deterministic={deterministic}"], environ={})
    assert promised in promise(settings, device)


@pytest.mark.usefixtures("forking")
def test_another_loss_makes_other_weights_in_a_run_of_its_own(runs: Path) -> None:
    asked = ("--set", "loss.alpha=1", "--into", "what-if")
    result = replayed(runs, *asked, "--until", "v2")
    assert result.exit_code == 0, result.output
    assert "loss.alpha" in result.output
    assert "a@v3" not in result.output
    assert set(weights(runs / "what-if").values()).isdisjoint(weights(runs / RUN).values())
    first = weights(runs / "what-if")
    assert replayed(runs, *asked).exit_code == 0
    after = weights(runs / "what-if")
    assert len(after) == STEPS
    assert first.items() <= after.items()


@pytest.mark.usefixtures("forking")
def test_a_version_that_differs_is_named(runs: Path) -> None:
    manifest = runs / RUN / "weights" / STUDENT / "v000002" / "manifest.json"
    original = manifest.read_text()
    recorded = original.partition('"checksum":"')[2][:64]
    try:
        manifest.write_text(original.replace(recorded, "0" * 64))
        result = replayed(runs)
    finally:
        manifest.write_text(original)
    assert result.exit_code == 1
    assert "1 of 3 versions differ from the recorded ones, the first is a@v2" in str(result.exception)


def test_an_altered_batch_is_refused(runs: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / RUN
    shutil.copytree(runs / RUN, run_dir, ignore=shutil.ignore_patterns("checkpoints", "weights"))
    groups = run_dir / "batches" / STUDENT / "s00001" / "groups.jsonl"
    groups.write_bytes(groups.read_bytes().replace(b"41", b"42"))
    with pytest.raises(StepRefusedError, match=r"groups\.jsonl: expected sha256"):
        list(replay(STUDENT, run_dir, run_dir, None))


def test_a_missing_batch_is_named(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / RUN / "batches", tmp_path / "batches")
    shutil.rmtree(tmp_path / "batches" / STUDENT / "s00002")
    with pytest.raises(StorageError, match="expected the batch of step 2"):
        sealed_batches(tmp_path, STUDENT)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--set", "loss.alpha=1"), "name it with --into"),
        (("--set", "gate.tau=0.3", "--into", "x"), "only loss.*, optimizer.* and trainer.* can be changed"),
        (("--until", "last", "--into", "x"), "expected a version such as v7, got 'last'"),
        (("--until", "v9"), f"--until: expected a version that was trained, of student a v{STEPS} is the last, got v9"),
        (("--into", "../outside"), "expected a run name of letters, digits"),
        (("--into", "what if"), "expected a run name of letters, digits"),
        (("--student", "c"), "--student: expected one of a, b, got 'c'"),
        (("--into", RUN), "holds another run; choose another --into"),
    ],
)
def test_bad_input_is_named_and_writes_nothing(runs: Path, arguments: tuple[str, ...], message: str) -> None:
    there = sorted(path.name for path in runs.iterdir())
    result = replayed(runs, *arguments)
    assert message in str(result.exception)
    assert getattr(result.exception, "exit_code", None) == 2
    assert sorted(path.name for path in runs.iterdir()) == there
    assert not (runs.parent / "outside").exists()


def test_models_that_cannot_be_copied_begin_no_run(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / RUN, tmp_path / RUN)
    (tmp_path / RUN / "models" / "c.json").symlink_to("nowhere")
    result = replayed(tmp_path, "--into", "half")
    assert isinstance(result.exception, StorageError)
    assert "expected to copy the models" in str(result.exception) and "c.json" in str(result.exception)
    assert not (tmp_path / "half" / "config.toml").exists()
