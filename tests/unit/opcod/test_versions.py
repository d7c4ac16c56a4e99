"""`opcod weights`: what lies on disk is listed, and everything that is not as it was published is found."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

pytest.importorskip("torch")

import torch
from safetensors.torch import load_file, save_file

from opcod.main import app
from shared.config.loading import load_settings, to_toml
from tests.unit.modeling.tiny_model import write_tiny_model
from tests.unit.trainer.ground import RUN, OpenFence, seal_steps, settings, student_trainer


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runs directory with a run of two versions."""
    base = write_tiny_model(tmp_path_factory.mktemp("tiny"))
    runs = tmp_path_factory.mktemp("runs")
    (runs / RUN).mkdir()
    (runs / RUN / "config.toml").write_text(to_toml(load_settings(preset="smoke", environ={})))
    trainer = student_trainer(runs / RUN, base, settings())
    trainer.restore()
    for sealed in seal_steps(runs / RUN, base, 2):
        trainer.apply(sealed, OpenFence())
        trainer.publish()
    return runs


@pytest.fixture
def runs(published: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(published, tmp_path / "runs"))


def weights(runs: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["weights", *arguments, "--runs-dir", str(runs)])


def test_versions_are_listed_with_their_parents(runs: Path) -> None:
    lines = [line for line in weights(runs, "list", RUN).output.splitlines() if "a@v" in line]
    assert [[cell.strip() for cell in line.split("│")[1:3]] for line in lines] == [["a@v1", "a@v0"], ["a@v2", "a@v1"]]


def test_what_was_published_is_found_as_it_was(runs: Path) -> None:
    result = weights(runs, "verify", RUN)
    assert (result.exit_code, result.output) == (0, "2 versions are what was published\n")


def flip_a_bit(version: Path) -> None:
    file = version / "adapter_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def not_finite(version: Path) -> None:
    file = version / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors[next(iter(tensors))].view(-1)[0] = torch.nan
    save_file(tensors, file)


def one_more_file(version: Path) -> None:
    (version / "pytorch_model.bin").write_bytes(b"pickle")


def another_parent(version: Path) -> None:
    _change(version, parent="a@v7")


def another_checksum(version: Path) -> None:
    _change(version, checksum="0" * 64)


def another_batch(version: Path) -> None:
    batch = version.parents[2] / "batches" / "a" / "s00002" / "manifest.json"
    batch.write_text(batch.read_text() + "\n")


def _change(version: Path, **fields: str) -> None:
    manifest = version / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | fields))


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (flip_a_bit, "it was altered after it was written"),
        (not_finite, "it was altered after it was written"),
        (one_more_file, "expected the files"),
        (another_parent, "names a@v7 as its parent"),
        (another_checksum, "do not have the checksum of the manifest"),
        (another_batch, "trained on another batch than the one in s00002"),
    ],
)
def test_what_is_not_as_it_was_is_said(runs: Path, harm: Callable[[Path], None], said: str) -> None:
    harm(runs / RUN / "weights" / "a" / "v000002")
    result = weights(runs, "verify", RUN)
    assert getattr(result.exception, "exit_code", None) == 74
    assert "a@v2: " in str(result.exception)
    assert said in str(result.exception)
    assert "a@v1: " not in str(result.exception)
