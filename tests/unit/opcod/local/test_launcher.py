"""What a launcher waits for, and how long."""

import subprocess
from pathlib import Path

import pytest

from opcod.local.deployment import Deployment
from opcod.local.launcher import PASSWORD_FILE, REDIS, Launcher
from opcod.local.nodes import Meeting, read_meeting, write_address
from opcod.local.processes import LiveProcess, ProcessSpec, launch
from opcod.local.services import READY_TIMEOUT_S, ready_timeout_s
from shared.config.loading import load_settings
from shared.config.settings import Paths
from shared.contracts.models import PreparedModel, model_file
from shared.errors import StoppedError


def test_a_large_model_on_a_slow_disk_has_the_time_to_be_read(tmp_path: Path) -> None:
    settings = load_settings(preset="smoke", overrides=["students.a.engine=vllm"], environ={})
    assert ready_timeout_s(tmp_path, settings, "student-a") == READY_TIMEOUT_S
    model = tmp_path / "model"
    model.mkdir()
    with (model / "model.safetensors").open("wb") as weights:
        weights.truncate(16_400_000_000)  # sparse, of the size of an 8B model in bfloat16
    for student in "ab":
        file = model_file(tmp_path, student)
        file.parent.mkdir(exist_ok=True)
        file.write_text(PreparedModel(path=model, sha256="0" * 64).model_dump_json())
    assert ready_timeout_s(tmp_path, settings, "inspector") == READY_TIMEOUT_S
    loading_s = ready_timeout_s(tmp_path, settings, "trainer-a")
    assert loading_s - READY_TIMEOUT_S > 600
    assert ready_timeout_s(tmp_path, settings, "student-b") == loading_s
    assert ready_timeout_s(tmp_path, settings, "student-a") == loading_s + settings.students["a"].vllm.start_timeout_s


def test_a_second_engine_of_a_gpu_is_not_started_before_the_first_is_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    engines = ["students.a.engine=vllm", "students.b.engine=vllm"]
    settings = load_settings(preset="smoke", overrides=engines, environ={})
    paths = Paths(runs_dir=tmp_path, run="r1", cache_dir=tmp_path / "cache")
    paths.run_dir.mkdir()
    started: list[str] = []

    def start(spec: ProcessSpec) -> LiveProcess:
        """A service that never becomes ready."""
        started.append(spec.name)
        return launch(spec) if spec.name == REDIS else subprocess.Popen(["sleep", "60"])

    launcher = Launcher(paths, settings, "run", lambda: "student-a" in started, start)
    try:
        with pytest.raises(StoppedError, match="waiting for"):
            launcher.start(lambda _: None)
    finally:
        launcher.stop()
    assert sorted(started) == ["inspector", REDIS, "student-a"]


def test_a_node_that_came_to_a_meeting_before_has_not_come_to_this_one(tmp_path: Path) -> None:
    """A launcher that was killed has left its meeting, and so has a node its address."""
    settings = load_settings(preset="smoke", overrides=["resources.nodes=2"], environ={})
    paths = Paths(runs_dir=tmp_path, run="r1", cache_dir=tmp_path / "cache")
    left = Meeting(
        id="left",
        address="127.0.0.1",
        port=29400,
        redis_url="redis://127.0.0.1:1",
        redis_password_file=None,
        key_file=tmp_path / "key",
    )
    paths.run_dir.mkdir()
    left.save(paths.run_dir)
    # Of a run that was copied without its passwords.
    Deployment(
        run="r1",
        run_dir=paths.run_dir,
        mode="run",
        key_file=tmp_path / "key",
        redis_url="redis://127.0.0.1:1",
        redis_password_file=paths.run_dir / PASSWORD_FILE,
        embedded_redis_port=1,
    ).save()
    write_address(paths.run_dir, 1, left, "127.0.0.2")
    meetings: dict[str, Meeting | None] = {}

    def note(what: str) -> None:
        meetings[what] = read_meeting(paths.run_dir)

    launcher = Launcher(paths, settings, "run", lambda: "the other nodes" in meetings, rendezvous="127.0.0.1")
    try:
        with pytest.raises(StoppedError, match="waiting for the other nodes"):
            launcher.start(note)
        assert list(launcher.pids()) == [REDIS]
    finally:
        launcher.stop()
    # A node that is still up takes none for the end of the run.
    assert meetings[REDIS] == left
    assert meetings["the other nodes"] not in (None, left)
