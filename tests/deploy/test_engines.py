"""A vLLM beside its student: what `opcod prepare` writes down is what the container starts, and both see one socket."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from functools import partial
from itertools import permutations
from pathlib import Path

import psutil
import pytest

from opcod.commands.prepare import ANYWHERE, write_engines
from opcod.local.gpus import require_given
from opcod.prepare.checks import check_engines
from opcod.prepare.run_directory import create_run
from shared.config.loading import load_settings
from shared.config.settings import Paths, RunSettings
from shared.contracts.ids import seed_of
from shared.contracts.models import PreparedModel
from shared.errors import ConfigError
from shared.vllm import Model, arguments
from tests.deploy.deployed import (
    DOCKERFILE,
    FOLLOWERS,
    K8S,
    OVERLAYS,
    Tree,
    compose,
    kubernetes_containers,
    of_kind,
    overlay,
    pod_containers,
    pods,
)
from tests.deploy.test_agreement import PLACES, processes
from tests.fakes.waiting import WAIT_S, wait_until

SERVE = K8S / "components" / "gpu" / "serve.sh"
GPU_PLACES = [where for where in PLACES if "gpu" in where]
STUB = """\
#!/usr/bin/env bash
printf '%s\\n' "$@" > "$HERE/arguments"
env > "$HERE/environment"
"""


def vllm_run(tmp_path: Path, *overrides: str) -> Paths:
    beside = [
        f"students.{s}.{key}={value}"
        for s in "ab"
        for key, value in (("engine", "vllm"), ("vllm.url", f"unix:/data/engines/{s}.sock"))
    ]
    paths = Paths(runs_dir=tmp_path, run="r1", cache_dir=tmp_path / "cache")
    create_run(paths, load_settings(preset="smoke", overrides=[*beside, *overrides], environ={}))
    return paths


def settings_of(paths: Paths) -> RunSettings:
    return load_settings(config=paths.run_dir / "config.toml", environ={})


def prepared(paths: Paths) -> Paths:
    (paths.run_dir / "models").mkdir()
    for name in "ab":
        entry = PreparedModel(path=Path("/data/cache/models") / name, sha256="0" * 64)
        (paths.run_dir / "models" / f"{name}.json").write_text(entry.model_dump_json())
    (paths.run_dir / "prepared.json").write_text("{}")
    return paths


def test_the_container_starts_the_server_that_a_student_would_start(tmp_path: Path) -> None:
    paths = prepared(vllm_run(tmp_path, 'students.b.vllm.arguments=["--enforce-eager", "--hf-overrides={\\"a\\": 1}"]'))
    settings = settings_of(paths)
    write_engines(paths, settings)
    stub = tmp_path / "bin" / "python3"
    stub.parent.mkdir()
    stub.write_text(STUB)
    stub.chmod(0o755)
    told = {"PATH": f"{stub.parent}:{os.environ['PATH']}", "HERE": str(tmp_path), "OPCOD_RUN_DIR": str(paths.run_dir)}
    done = subprocess.run(
        ["bash", str(SERVE)],
        env={**told, "OPCOD_STUDENT": "b"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    student = settings.students["b"]
    model = Model(Path("/data/cache/models/b"), student.dtype, settings.lora.rank)
    expected = arguments(
        ANYWHERE,
        student.vllm,
        model,
        socket=Path("/data/engines/b.sock"),
        slots=student.slots,
        seed=seed_of(settings.run.seed, "b", "vllm"),
    )
    assert (tmp_path / "arguments").read_text().splitlines() == expected[1:]
    assert json.loads(expected[-1].partition("=")[2]) == {"a": 1}
    variables = (tmp_path / "environment").read_text().splitlines()
    assert {"VLLM_ALLOW_RUNTIME_LORA_UPDATING=1", "HF_HUB_OFFLINE=1", "VLLM_NO_USAGE_STATS=1"} <= set(variables)
    assert not [variable for variable in variables if variable.startswith("VLLM_API_KEY")]
    assert "VLLM_CACHE_ROOT=/data/compiled/b" in variables


def test_a_server_of_full_weights_can_exchange_them_and_takes_no_adapters(tmp_path: Path) -> None:
    paths = prepared(vllm_run(tmp_path, "run.weights=full", "run.schedule=sequential"))
    write_engines(paths, settings_of(paths))
    for student in "ab":
        engine = paths.run_dir / "engines" / student
        assert "--enable-lora" not in engine.with_suffix(".arguments").read_text()
        told = engine.with_suffix(".environment").read_text().splitlines()
        assert "VLLM_SERVER_DEV_MODE=1" in told and not [each for each in told if "LORA" in each]


def test_a_student_that_starts_its_own_server_needs_no_files(tmp_path: Path) -> None:
    paths = prepared(vllm_run(tmp_path, "students.a.vllm.url=none"))
    write_engines(paths, settings_of(paths))
    assert {file.name for file in (paths.run_dir / "engines").iterdir()} == {"b.arguments", "b.environment"}


def test_a_model_that_is_not_prepared_and_an_argument_of_two_lines_are_refused(tmp_path: Path) -> None:
    paths = vllm_run(tmp_path, 'students.a.vllm.arguments=["one\\ntwo"]')
    with pytest.raises(ConfigError, match="prepared model of student a"):
        write_engines(paths, settings_of(paths))
    with pytest.raises(ConfigError, match="one line each"):
        write_engines(prepared(paths), settings_of(paths))


def test_an_engine_that_waits_for_a_preparation_ends_when_told_to(tmp_path: Path) -> None:
    """As the first process of a container, which is ended by no signal that it has no word for."""
    first = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]
    if shutil.which("unshare") is None or subprocess.run([*first, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs namespaces of processes: Linux, as root or as a user who may make user namespaces")
    told = {"PATH": os.environ["PATH"], "OPCOD_RUN_DIR": str(tmp_path), "OPCOD_STUDENT": "a"}
    with subprocess.Popen([*first, "bash", str(SERVE)], env=told) as outside:
        try:
            inside = psutil.Process(outside.pid)
            wait_until(lambda: "sleep" in [each.name() for each in inside.children(recursive=True)], "its first look")
            inside.children()[0].terminate()
            assert outside.wait(WAIT_S) == 128 + signal.SIGTERM
        finally:
            outside.kill()


@pytest.mark.parametrize("where", GPU_PLACES)
def test_student_and_engine_meet_at_the_socket_that_the_settings_name(where: str) -> None:
    prepare = processes(where)["prepare"]
    settings = load_settings(preset=prepare.environment["OPCOD_PRESET"], environ=prepare.environment)
    for name, student in settings.students.items():
        assert student.engine == "vllm"
        assert student.vllm.url == f"unix:/data/engines/{name}.sock"
        assert "/data/engines" in processes(where)[f"student-{name}"].mounts
    assert "/data/engines/$OPCOD_STUDENT.sock" in SERVE.read_text()


@pytest.mark.parametrize("preset", ["laptop", "phys-chem"])
@pytest.mark.parametrize("name", [name for name in OVERLAYS if "gpu" in name])
def test_a_preparation_is_begun_with_the_gpus_that_its_job_has(
    name: str, preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many GPUs the ranks of a trainer have in pods of their own."""
    environment = kubernetes_containers(name)["prepare"].environment
    limits = pods(overlay(name))["prepare"]["spec"]["containers"][0]["resources"]["limits"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(limits["nvidia.com/gpu"]))))
    check_engines(load_settings(preset=preset, environ=environment), "prepare")


@pytest.mark.parametrize("name", [name for name in OVERLAYS if "gpu" in name])
def test_a_preparation_in_a_cluster_knows_how_many_gpus_each_has(name: str) -> None:
    objects = overlay(name)
    environment = kubernetes_containers(name)["prepare"].environment
    has = {
        workload.removesuffix(FOLLOWERS): sum(
            container["resources"]["limits"].get("nvidia.com/gpu", 0) for container in pod_containers(pod)
        )
        for workload, pod in pods(objects).items()
        if workload.startswith(("student", "trainer"))
    }
    for group, found in of_kind(objects, "LeaderWorkerSet").items():
        has[group] *= found["spec"]["leaderWorkerTemplate"]["size"]
    given = environment["OPCOD_CONTAINER_GPUS"].split()
    assert dict(each.split("=") for each in given) == {service: str(count) for service, count in has.items()}
    require_given(load_settings(preset="laptop", environ=environment), given)
    split = {**environment, "OPCOD_SET_STUDENTS__B__VLLM__TENSOR_PARALLEL_SIZE": "2"}
    with pytest.raises(ConfigError, match="student-b needs 2 GPUs and is given 1"):
        require_given(load_settings(preset="laptop", environ=split), given)


@pytest.mark.parametrize("profile", ["gpu", "gpu1"])
def test_engines_of_compose_have_no_network_and_read_only_data(profile: str) -> None:
    services = compose(profile)["services"]
    engines = {name: service for name, service in services.items() if name.startswith("vllm")}
    assert {service["environment"]["OPCOD_STUDENT"] for service in engines.values()} == {"a", "b"}
    for service in engines.values():
        assert service["network_mode"] == "none"
        mounts = {mount["target"]: mount.get("read_only", False) for mount in service["volumes"]}
        assert mounts == {
            "/data/runs": True,
            "/data/cache": True,
            "/data/engines": False,
            "/data/compiled": False,
            "/etc/opcod/serve.sh": True,
        }
    used = [gpu for service in services.values() for gpu in gpus(service)]
    assert (used.count("0"), used.count("1")) == ((5, 0) if profile == "gpu1" else (3, 2))


@pytest.mark.parametrize("profile", ["gpu", "gpu1"])
def test_on_one_gpu_of_compose_engines_start_one_after_the_other_and_trainers_after_them(profile: str) -> None:
    services = compose(profile)["services"]
    on_gpus = {name: service for name, service in services.items() if gpus(service) and name != "prepare-gpu"}
    assert {name.partition("-")[0] for name in on_gpus} == {"vllm", "trainer"}
    for engine, other in permutations(on_gpus, 2):
        if engine.startswith("vllm") and gpus(on_gpus[engine]) == gpus(on_gpus[other]):
            before = engine in waited_for(services, other)
            assert before or (other.startswith("vllm") and other in waited_for(services, engine)), f"{engine}, {other}"
            assert services[engine]["healthcheck"]["test"][:2] == ["CMD", "python3"]


def waited_for(services: Tree, name: str) -> set[str]:
    """Who is healthy before that service is started."""
    needs = services[name].get("depends_on", {})
    first = {other for other, need in needs.items() if need["condition"] == "service_healthy" and other in services}
    return first.union(*(waited_for(services, other) for other in first))


@pytest.mark.parametrize(("answer", "healthy"), [(b"HTTP/1.0 200 OK", True), (b"HTTP/1.0 503 Wait", False)])
def test_an_engine_of_compose_is_healthy_once_it_says_so_on_its_socket(
    tmp_path: Path, answer: bytes, healthy: bool
) -> None:
    command = compose("gpu")["services"]["vllm-a"]["healthcheck"]["test"][1:]
    here = [sys.executable, *(word.replace("/data/engines", str(tmp_path)) for word in command[1:])]
    asked = partial(subprocess.run, here, env={"OPCOD_STUDENT": "a"}, capture_output=True, timeout=30, check=False)
    assert asked().returncode != 0, "nobody listens"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "a.sock"))
        assert asked().returncode != 0, "bound, as vLLM is before it loads anything"
        listener.listen()
        thread = threading.Thread(target=answer_once, args=(listener, answer))
        thread.start()
        assert (asked().returncode == 0) == healthy
        thread.join()


def answer_once(listener: socket.socket, answer: bytes) -> None:
    caller, _ = listener.accept()
    with caller:
        assert caller.recv(64).startswith(b"GET /health ")
        caller.sendall(answer + b"\r\n\r\n")


def test_what_an_engine_compiles_outlives_its_container_and_is_its_own() -> None:
    for profile in ("gpu", "gpu1"):
        services = compose(profile)["services"]
        volumes = {
            name: mount["source"]
            for name, service in services.items()
            for mount in service.get("volumes", [])
            if mount["target"] == "/data/compiled"
        }
        # With `keys`, as a new volume gets its owner from the first image that mounts it.
        assert {name.partition("-")[0] for name in volumes} == {"vllm", "keys"}
        assert set(volumes.values()) == {"compiled"}
    assert re.search(r"install -d -o opcod .*/data/compiled\b", DOCKERFILE.read_text())
    for name, pod in pods(overlay("gpu")).items():
        for engine in (each for each in pod["spec"].get("initContainers", []) if each["name"] == "vllm"):
            (mount,) = (each for each in engine["volumeMounts"] if each["mountPath"] == "/data/compiled")
            assert (mount["name"], mount["subPathExpr"]) == ("data", "compiled/$(POD_NAME)"), name
            assert "POD_NAME" in [variable["name"] for variable in engine["env"]]


def test_engines_run_as_vllms_image_documents_it_any_user_of_group_0() -> None:
    """And as its student's user, who alone opens the socket."""
    for profile in ("gpu", "gpu1"):
        engines = [each for name, each in compose(profile)["services"].items() if name.startswith("vllm")]
        assert {engine["user"] for engine in engines} == {"10001:0"}
    for pod in pods(overlay("gpu")).values():
        for engine in (each for each in pod["spec"].get("initContainers", []) if each["name"] == "vllm"):
            assert engine["securityContext"]["runAsGroup"] == 0
            assert engine["securityContext"].get("runAsUser", pod["spec"]["securityContext"]["runAsUser"]) == 10001


MODEL_BYTES = 8.19e9 * 2
"""Qwen3-8B in bfloat16."""

HOST_BYTES = {
    "prepare": 2.2 * MODEL_BYTES,
    "trainer": 1.5 * MODEL_BYTES,
    "vllm": MODEL_BYTES + 8 * 2**30,
    "student": 5e9,
}
"""What a container needs of the host's memory beside a GPU, at most: weights as they are read, twice where they are
merged and saved; an engine's shared memory; a tensor at a time and some adapters."""


@pytest.mark.parametrize("profile", ["gpu", "gpu1"])
def test_no_limit_of_compose_ends_what_loads_a_model_of_8b_for_a_gpu(profile: str) -> None:
    services = compose(profile)["services"]
    loading = {name: name.partition("-")[0] for name in services if name.partition("-")[0] in HOST_BYTES}
    assert set(loading.values()) == HOST_BYTES.keys()
    for name, kind in loading.items():
        assert int(services[name]["mem_limit"]) > HOST_BYTES[kind], name


def test_no_limit_of_the_cluster_ends_what_loads_a_model_of_8b_for_a_gpu() -> None:
    for name, pod in pods(overlay("gpu")).items():
        for container in pod_containers(pod):
            kind = "vllm" if container["name"] == "vllm" else name.partition("-")[0]
            limit = container["resources"]["limits"]["memory"]
            needed = 0 if container["name"] == "wait-for-prepare" else HOST_BYTES.get(kind, 0)
            assert not needed or (limit.endswith("Gi") and int(limit.removesuffix("Gi")) * 2**30 > needed), name


def gpus(service: Tree) -> list[str]:
    devices = service.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices", [])
    return [each for device in devices for each in device["device_ids"]]


def test_engines_of_the_cluster_are_sidecars_with_a_gpu_each() -> None:
    objects = overlay("gpu")
    for name, pod in pods(objects).items():
        engines = [each for each in pod["spec"].get("initContainers", []) if each["name"] == "vllm"]
        assert bool(engines) == name.startswith("student")
        for engine in engines:
            assert engine["restartPolicy"] == "Always"
            assert engine["resources"]["limits"]["nvidia.com/gpu"] == 1
            (volume,) = (each for each in pod["spec"]["volumes"] if each["name"] == "engines")
            assert volume["emptyDir"] == {}
        if name.startswith(("trainer", "prepare")):
            assert pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    (serve,) = (each for name, each in of_kind(objects, "ConfigMap").items() if name.startswith("opcod-serve"))
    assert serve["data"]["serve.sh"] == SERVE.read_text()
