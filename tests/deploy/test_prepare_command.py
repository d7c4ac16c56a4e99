"""`opcod prepare`, with the environment that a container starts it with."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from opcod.commands.prepare import ERROR_FILE, PREPARED_FILE
from shared.config.environment import ServiceEnvironment
from shared.errors import EXIT_USAGE
from shared.results.report import build_report
from tests.fakes.command import call_opcod
from tests.fakes.final_state import final_state, settings
from tests.unit.modeling.tiny_model import write_tiny_model

SCRIPTED = [f"--set=students.{s}.{setting}" for s in "ab" for setting in ("engine=scripted", "specialize=false")]


class Ended(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


Prepare = Callable[..., Ended]


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("OPCOD_")}
    return ours | {
        "OPCOD_RUN": "r1",
        "OPCOD_RUNS_DIR": str(tmp_path / "runs"),
        "OPCOD_CACHE_DIR": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture
def prepare(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Prepare:
    """Calls it in this process with these variables and no others of ours."""

    def call(variables: dict[str, str], *options: str) -> Ended:
        with monkeypatch.context() as patched:
            for name in os.environ:
                if name.startswith("OPCOD_"):
                    patched.delenv(name)
            for name, value in variables.items():
                patched.setenv(name, value)
            code = call_opcod(patched, "prepare", *SCRIPTED, *options)
            return Ended(code, *capsys.readouterr())

    return call


def test_what_the_container_says_of_gpus_holds_where_the_settings_say_nothing(
    variables: dict[str, str], prepare: Prepare, tmp_path: Path
) -> None:
    told = {"OPCOD_ENGINE_MEMORY": "0.25", "OPCOD_CONTAINER_GPUS": "student-a=1 trainer-a=1"}
    write_tiny_model(tmp_path / "tiny", context=4096)
    beside = [
        f"--set=students.{s}.{setting}"
        for s in "ab"
        for setting in (
            "engine=vllm",
            f"vllm.url=unix:/data/engines/{s}.sock",
            f"model={tmp_path / 'tiny'}",
            "dtype=float32",
        )
    ]
    own = "--set=students.a.vllm.gpu_memory_utilization=0.6"
    done = prepare(variables | told, *beside, own, "--set=lora.first_layer=1")
    assert done.returncode == 0, done.stderr
    for student, share in (("a", "0.6"), ("b", "0.25")):
        arguments = (tmp_path / "runs" / "r1" / "engines" / f"{student}.arguments").read_text()
        assert f"--gpu-memory-utilization\n{share}\n" in arguments
    ranks = prepare(variables | told | {"OPCOD_RUN": "r2"}, "--set=trainer.ranks=2")
    assert ranks.returncode == EXIT_USAGE and "trainer-a needs 2 GPUs and is given 1" in ranks.stderr
    assert not (tmp_path / "runs" / "r2" / PREPARED_FILE).exists()


def test_it_writes_what_services_start_with(variables: dict[str, str], tmp_path: Path) -> None:
    """Started as a container starts it."""
    command = [sys.executable, "-m", "opcod.main", "prepare", *SCRIPTED]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    run_dir = tmp_path / "runs" / "r1"
    environment = ServiceEnvironment.model_validate(
        {
            "run": "r1",
            "run_dir": run_dir,
            "cache_dir": tmp_path,
            "redis_url": "redis://redis",
            "key_file": run_dir / "key",
        }
    )
    assert {student.engine for student in environment.settings().students.values()} == {"scripted"}
    keys = environment.keys()
    assert keys is not None
    assert len(keys.strongest) >= 32
    assert stat.S_IMODE((run_dir / "key").stat().st_mode) == 0o600
    assert set(json.loads((run_dir / PREPARED_FILE).read_text())) == {"seconds"}


@pytest.mark.model
def test_a_student_that_thinks_is_pointed_out(prepare: Prepare, variables: dict[str, str], tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model")
    (model / "chat_template.jinja").write_text("{{ messages[-1].content }}<think>")
    own = ("engine=transformers", f"model={model}", "chat_template=none")
    done = prepare(variables, "--set=lora.first_layer=0", *(f"--set=students.b.{each}" for each in own))
    assert done.returncode == 0, done.stderr
    assert "note: student b thinks before it answers" in done.stdout
    assert "note: student a" not in done.stdout


def test_again_changes_nothing_and_other_settings_are_refused(
    prepare: Prepare, variables: dict[str, str], tmp_path: Path
) -> None:
    run_dir = tmp_path / "runs" / "r1"
    assert prepare(variables).returncode == 0
    before = {name: (run_dir / name).read_bytes() for name in ("config.toml", "key")}
    assert prepare(variables).returncode == 0
    refused = prepare(variables | {"OPCOD_SET_RUN__SEED": "7"})
    assert (refused.returncode, "run.seed: 0 -> 7" in refused.stderr) == (EXIT_USAGE, True)
    assert before == {name: (run_dir / name).read_bytes() for name in before}


def test_only_a_run_that_goes_on_needs_the_disk_for_its_steps(
    prepare: Prepare, variables: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert prepare(variables).returncode == 0
    monkeypatch.setattr("opcod.planning.disk.free_under", lambda _: 0)
    full = prepare(variables)
    assert (full.returncode, "found 0.0 GB" in full.stderr) == (EXIT_USAGE, True)
    assert prepare(variables | {"OPCOD_TRAIN": "false"}).returncode == 0
    assert prepare(variables | {"OPCOD_TRAIN": ""}).returncode == EXIT_USAGE
    report = tmp_path / "runs" / "r1" / "report" / "report.json"
    report.parent.mkdir()
    report.write_text(build_report(final_state(run="r1"), settings(), {}, 1.0, {}).model_dump_json())
    assert prepare(variables).returncode == 0


def test_one_that_fails_takes_back_what_the_last_one_said_and_a_check_tells_why(
    prepare: Prepare, variables: dict[str, str], tmp_path: Path
) -> None:
    run_dir = tmp_path / "runs" / "r1"
    never = prepare(variables, "--check")
    assert (never.returncode, "look at the log of `opcod prepare`" in never.stderr) == (EXIT_USAGE, True)
    assert not run_dir.exists()
    assert prepare(variables).returncode == 0
    assert prepare(variables, "--check").returncode == 0
    for wrong, reason in (({"OPCOD_SET_RUN__SEED": "7"}, "run.seed: 0 -> 7"), ({"OPCOD_PRESET": "nosuch"}, "nosuch")):
        refused = prepare(variables | wrong)
        assert (refused.returncode, reason in refused.stderr) == (EXIT_USAGE, True)
        assert not (run_dir / PREPARED_FILE).exists()
        checked = prepare(variables, "--check")
        assert (checked.returncode, reason in checked.stderr) == (EXIT_USAGE, True)
    assert prepare(variables).returncode == 0
    assert prepare(variables | {"OPCOD_PRESET": "nosuch"}, "--check").returncode == 0
    assert not (run_dir / ERROR_FILE).exists()


def test_a_name_that_leads_elsewhere_makes_no_directory(
    prepare: Prepare, variables: dict[str, str], tmp_path: Path
) -> None:
    refused = prepare(variables | {"OPCOD_RUN": "../elsewhere"})
    assert (refused.returncode, "expected a run name" in refused.stderr) == (EXIT_USAGE, True)
    assert not (tmp_path / "elsewhere").exists() and not (tmp_path / "runs").exists()


def test_a_key_that_is_there_already_is_used(prepare: Prepare, variables: dict[str, str], tmp_path: Path) -> None:
    secret, run_dir = tmp_path / "secret", tmp_path / "runs" / "r1"
    missing = prepare(variables, "--key-file", str(secret))
    secret.write_text("\n")
    empty = prepare(variables, "--key-file", str(secret))
    assert (missing.returncode, empty.returncode) == (EXIT_USAGE, EXIT_USAGE)
    assert (str(secret) in missing.stderr, "found it empty" in empty.stderr) == (True, True)
    assert not (run_dir / PREPARED_FILE).exists()
    secret.write_text("open-sesame\n")
    assert prepare(variables | {"OPCOD_KEY_FILE": str(secret)}).returncode == 0
    assert not (run_dir / "key").exists()
