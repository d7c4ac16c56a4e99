"""`opcod weights`: what lies on disk is listed, and everything that is not as it was published is found."""

import hashlib
import json
import re
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

pytest.importorskip("torch")

import torch
from safetensors.torch import load_file, save_file

from opcod.local.deployment import run_lock
from opcod.main import app
from opcod.weights import span
from services.broker.machine import machine
from services.broker.machine.moves import Serve, TakenUp
from services.broker.recovery import choose
from shared.contracts.run import Status
from shared.files.state import read_state_file
from shared.modeling.checksums import file_checksum
from tests.fakes.world import small_plan
from tests.unit.opcod.published_run import done
from tests.unit.trainer.ground import RUN


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


def _change(version: Path, **fields: object) -> None:
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


@pytest.mark.parametrize("words", [("verify", RUN), ("rollback", RUN, "--student", "a", "--to", "v1")])
def test_where_torch_is_not_installed_it_is_said_where_to_do_it(
    runs: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    done(runs)
    monkeypatch.delitem(sys.modules, "services.trainer.model.trained", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    result = weights(runs, *words)
    assert getattr(result.exception, "exit_code", None) == 2
    assert "`docker-compose run --rm --no-deps trainer-a opcod …`" in str(result.exception)


def test_a_rollback_is_a_new_version_that_a_broker_takes_up_and_serves(runs: Path) -> None:
    run_dir = done(runs)
    result = weights(runs, "rollback", RUN, "--student", "a", "--to", "v1")
    assert result.exit_code == 0, result.output
    assert "a@v3 holds the tensors of a@v1 and is live" in result.output
    old, new = (run_dir / "weights/a" / name / "adapter_model.safetensors" for name in ("v000001", "v000003"))
    assert new.read_bytes() == old.read_bytes()
    assert weights(runs, "verify", RUN).output == "3 versions are what was published\n"
    in_redis = machine.new_run(small_plan(), incarnation=1, at=0.0).model_copy(update={"revision": 7})
    taken = choose(in_redis.model_dump_json(), read_state_file(run_dir)).state
    assert taken is not None
    _, commands = machine.observe(taken, small_plan(), TakenUp(1.0, False))
    assert Serve("a", "a@v3", ("a@v3",)) in commands
    again = weights(runs, "rollback", RUN, "--student", "a", "--to", "a@v2")
    assert "a@v4 holds the tensors of a@v2" in again.output


def test_a_rollback_holds_no_file_in_memory(runs: Path) -> None:
    version = done(runs) / "weights" / "a" / "v000001"
    file = version / "adapter_model.safetensors"
    save_file({f"tensor {number}": torch.zeros(2**20) for number in range(4)}, file)
    listed = json.loads((version / "manifest.json").read_text())["files"]
    own = {"sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "bytes": file.stat().st_size}
    files = [entry | (own if entry["name"] == file.name else {}) for entry in listed]
    _change(version, kind="full", files=files, checksum=file_checksum(file))
    tracemalloc.start()
    try:
        result = weights(runs, "rollback", RUN, "--student", "a", "--to", "v1")
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert result.exit_code == 0, result.output
    assert peak_bytes < file.stat().st_size, "one tensor at a time is read, to be verified"


@pytest.mark.parametrize(
    ("changes", "to", "said"),
    [
        ({"status": Status.TRAINING}, "v1", "expected a run that is DONE"),
        ({}, "v9", r"expected a published version of student a \(a@v1 to a@v2\), got 'a@v9'"),
        ({}, "b@v1", "expected a published version of student a"),
    ],
)
def test_what_cannot_be_gone_back_to_is_refused(runs: Path, changes: dict[str, object], to: str, said: str) -> None:
    run_dir = done(runs, **changes)
    before = read_state_file(run_dir)
    result = weights(runs, "rollback", RUN, "--student", "a", "--to", to)
    assert getattr(result.exception, "exit_code", None) == 2
    assert re.search(said, str(result.exception))
    assert read_state_file(run_dir) == before
    assert not (run_dir / "weights/a/v000003").exists()


def test_a_damaged_version_and_a_run_that_is_up_are_not_rolled_back(runs: Path) -> None:
    run_dir = done(runs)
    with run_lock(run_dir):
        result = weights(runs, "rollback", RUN, "--student", "a", "--to", "v1")
    assert "is up already" in str(result.exception)
    flip_a_bit(run_dir / "weights/a/v000001")
    result = weights(runs, "rollback", RUN, "--student", "a", "--to", "v1")
    assert getattr(result.exception, "exit_code", None) == 74


def test_pruned_versions_are_listed_as_such_and_cannot_be_gone_back_to(runs: Path) -> None:
    run_dir = done(runs)
    for step in (3, 4):
        weights(runs, "rollback", RUN, "--student", "a", "--to", "v2")
        assert (run_dir / f"weights/a/v{step:06d}").exists()
    would = weights(runs, "prune", RUN, "--keep-last", "2", "--dry-run")
    assert "student a: would prune v1, v2" in would.output
    assert "student a: pruned v1, v2" in weights(runs, "prune", RUN, "--keep-last", "2").output
    assert "pruned" in weights(runs, "list", RUN).output
    assert weights(runs, "verify", RUN).output == "4 versions are what was published\n"
    result = weights(runs, "rollback", RUN, "--student", "a", "--to", "v1")
    assert "`opcod replay ground --student a --until v1" in str(result.exception).replace(RUN, "ground")


def test_one_version_is_no_span() -> None:
    assert (span(["a@v1"]), span([1, 2, 3])) == ("a@v1", "1 to 3")
