"""What services are waited for with, and what is said when they do not come."""

import subprocess
from pathlib import Path

import pytest

from opcod.local.processes import ProcessFailedError, ProcessSpec
from opcod.local.services import NodeServices, Told
from shared.config.loading import load_settings
from shared.config.settings import Paths
from shared.errors import ConfigError, StoppedError, UnavailableError

ASKED = ("OPCOD_STUDENT", "OPCOD_REPLICA", "OPCOD_PORT", "CUDA_VISIBLE_DEVICES")


@pytest.fixture
def services(tmp_path: Path) -> NodeServices:
    paths = Paths(runs_dir=tmp_path, run="pair", cache_dir=tmp_path / "cache")
    return NodeServices(paths, load_settings(preset="smoke", environ={}), "run")


def test_a_service_that_does_not_come_is_named_with_the_end_of_its_log(services: NodeServices, tmp_path: Path) -> None:
    log = tmp_path / "pair" / "logs" / "trainer-a.log"
    log.parent.mkdir(parents=True)
    log.write_text("no such model\n")
    with pytest.raises(UnavailableError) as refused:
        services.wait("trainer-a", lambda: "it has not begun to listen", 0.0)
    said = f"waited 0 s for trainer-a: it has not begun to listen; its log ({log}) ends:\nno such model"
    assert str(refused.value) == said


def test_of_a_run_that_is_served_students_alone_have_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    paths = Paths(runs_dir=tmp_path, run="pair", cache_dir=tmp_path / "cache")
    more = load_settings(preset="smoke", overrides=["trainer.ranks=3"], environ={})
    assert NodeServices(paths, more, "up").gpus == {"student-a": (0,), "student-b": (1,)}
    with pytest.raises(ConfigError, match="trainer-a needs 3 GPUs, this machine has 2"):
        NodeServices(paths, more, "run")


def test_each_replica_is_a_process_with_a_name_log_port_and_gpu_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opcod.local.services.gpus_here", lambda: 5)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    overrides = ["students.a.replicas=2", "students.a.port=8100", "bus.url=redis://none"]
    settings = load_settings(preset="smoke", overrides=overrides, environ={})
    started: dict[str, ProcessSpec] = {}

    def start(spec: ProcessSpec) -> subprocess.Popen[bytes]:
        started[spec.name] = spec
        return subprocess.Popen(["sleep", "600"])

    paths = Paths(runs_dir=tmp_path, run="pair", cache_dir=tmp_path / "cache")
    services = NodeServices(paths, settings, "run", stopped=lambda: len(started) > 1, start_process=start)
    names = ["student-a", "student-a-1", "student-b"]
    try:
        with pytest.raises(StoppedError):
            services.bring_up(names, Told("redis://none", None, tmp_path / "key"), lambda _: None)
    finally:
        services.supervisor.stop()
    told = {name: [spec.environment[each] for each in ASKED] for name, spec in started.items()}
    assert told == {
        "student-a": ["a", "0", "8100", "0"],
        "student-a-1": ["a", "1", "8101", "1"],
        "student-b": ["b", "0", "0", "2"],
    }
    assert [started[name].log_file.name for name in names] == [f"{name}.log" for name in names]
    assert {spec.module for spec in started.values()} == {"services.student"}
    assert all(spec.needed for spec in started.values())


def test_an_inspector_that_does_not_stay_up_is_no_reason_to_wait(tmp_path: Path) -> None:
    """Later it is one that the others do without; a run that never had one is told to its beginner."""
    settings = load_settings(preset="smoke", environ={})
    paths = Paths(runs_dir=tmp_path, run="pair", cache_dir=tmp_path / "cache")
    services = NodeServices(paths, settings, "run", start_process=lambda _: subprocess.Popen(["sh", "-c", "exit 2"]))
    with pytest.raises(ProcessFailedError, match="inspector ended with exit code 2"):
        services.bring_up(["inspector"], Told("redis://none", None, tmp_path / "key"), lambda _: None)
    assert services.supervisor.pids() == {}


def test_nodes_that_do_not_come_have_no_log(services: NodeServices) -> None:
    with pytest.raises(UnavailableError) as refused:
        services.wait("the other nodes", lambda: "not joined: node 1, 2", 0.0)
    assert str(refused.value) == "waited 0 s for the other nodes: not joined: node 1, 2"
