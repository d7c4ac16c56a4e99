"""docker-compose.yml, k8s/base and the image say what the code says, and the same as each other."""

import re
import shutil
import subprocess
import tomllib
from pathlib import PurePosixPath

import pytest
import typer
import yaml

from opcod.commands.prepare import PREPARED_FILE
from opcod.main import app
from shared.config.environment import ServiceEnvironment
from shared.config.settings import STUDENTS
from shared.guard import OPEN_PATHS
from shared.http import check_binding
from tests.deploy.deployed import (
    BASE,
    ROOT,
    Container,
    compose,
    compose_containers,
    kubernetes_containers,
    of_kind,
    pods,
)
from tests.fakes.access import one_key

PER_STUDENT = ("student", "trainer")
PER_RUN = ("broker", "inspector")
PROCESSES = {f"{service}-{student}" for service in PER_STUDENT for student in STUDENTS} | set(PER_RUN)
BOTH = {"compose": compose_containers(), "k8s": kubernetes_containers()}
EVERY_PROCESS = [
    pytest.param(each[name], name, id=f"{k}-{name}") for k, each in BOTH.items() for name in sorted(PROCESSES)
]
OF_THE_PLACE = {"OPCOD_HOST", "OPCOD_REPLICA", "OPCOD_KEY_FILE", "OPCOD_RUNS_DIR"}


def test_every_service_of_the_code_is_deployed_and_nothing_else() -> None:
    assert {path.parent.name for path in (ROOT / "services").glob("*/__main__.py")} == {*PER_STUDENT, *PER_RUN}
    for containers in BOTH.values():
        assert set(containers) == PROCESSES | {"redis", "prepare"}


@pytest.mark.parametrize(("container", "name"), EVERY_PROCESS)
def test_a_process_is_started_as_on_a_laptop(container: Container, name: str) -> None:
    service, _, student = name.partition("-")
    assert container.command == ("python", "-m", f"services.{service}")
    environment = environment_of(container)
    assert environment.student == (student or None)
    assert environment.port == container.port
    check_binding(environment.host, one_key("a key" if environment.key_file else None))


@pytest.mark.parametrize(("container", "name"), EVERY_PROCESS)
def test_what_a_process_reads_and_writes_lies_on_a_volume(container: Container, name: str) -> None:
    environment = environment_of(container)
    assert environment.run_dir.name == environment.run
    assert environment.key_file is not None
    for path in (environment.run_dir, environment.cache_dir, environment.key_file):
        assert any(PurePosixPath(path).is_relative_to(mount) for mount in container.mounts), f"{name}: {path}"


@pytest.mark.parametrize(("container", "name"), EVERY_PROCESS)
def test_only_students_tell_an_address_and_it_is_one_that_others_reach(container: Container, name: str) -> None:
    environment = environment_of(container)
    tells = environment.url_file is not None
    assert tells == name.startswith("student-")
    assert tells == (environment.host != "0.0.0.0")


def test_compose_and_kubernetes_agree() -> None:
    for name in PROCESSES | {"redis"}:
        left, right = BOTH["compose"][name], BOTH["k8s"][name]
        assert (left.image, left.command, common(left)) == (right.image, right.command, common(right)), name
    assert BOTH["compose"]["prepare"].command == BOTH["k8s"]["prepare"].command


@pytest.mark.parametrize("where", BOTH)
def test_prepare_is_a_command_with_those_options_and_prepares_what_is_served(where: str) -> None:
    program, command, *options = BOTH[where]["prepare"].command
    environment = BOTH[where]["prepare"].environment
    assert program in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    prepare = typer.main.get_command(app).commands[command]  # type: ignore[attr-defined]
    context = prepare.make_context(command, [*options, "--run", environment["OPCOD_RUN"]])
    assert context.params["preset"] == "laptop"
    known = {parameter.envvar for parameter in prepare.params if parameter.envvar}
    assert set(environment) <= known | variables()
    served = environment_of(BOTH[where]["broker"])
    assert str(served.run_dir) == f"{environment['OPCOD_RUNS_DIR']}/{environment['OPCOD_RUN']}"
    assert str(served.cache_dir) == environment["OPCOD_CACHE_DIR"]


@pytest.mark.parametrize("name", sorted(PROCESSES))
def test_pods_are_probed_where_the_service_answers(name: str) -> None:
    (container,) = pods()[name]["containers"]
    assert {"/livez", "/readyz"} <= OPEN_PATHS
    for probe, path in (("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
        assert container[probe]["httpGet"] == {"path": path, "port": "http"}
    (port,) = of_kind("Service")[name]["spec"]["ports"]
    assert (port["port"], port["targetPort"]) == (container["ports"][0]["containerPort"], "http")


@pytest.mark.parametrize("name", sorted(PROCESSES))
def test_compose_checks_readiness_where_the_service_listens(name: str) -> None:
    service = compose()["services"][name]
    host, port = service["environment"]["OPCOD_HOST"], service["environment"]["OPCOD_PORT"]
    reached = "127.0.0.1" if host == "0.0.0.0" else host
    assert f"'http://{reached}:{port}/readyz'" in service["healthcheck"]["test"][-1]
    assert host in ("0.0.0.0", service.get("hostname"))


def test_nothing_starts_before_the_run_is_prepared() -> None:
    for name in PROCESSES:
        needs = compose()["services"][name]["depends_on"]
        assert needs["prepare"] == {"condition": "service_completed_successfully"}
        (waiting,) = pods()[name]["initContainers"]
        assert f"$OPCOD_RUN_DIR/{PREPARED_FILE}" in waiting["command"][-1]
        assert waiting["volumeMounts"] == pods()[name]["containers"][0]["volumeMounts"]


def test_there_is_never_a_second_broker_trainer_or_inspector() -> None:
    workloads = of_kind("Deployment", "StatefulSet")
    for name, workload in workloads.items():
        assert workload["spec"]["replicas"] == 1
        assert workload["kind"] == "StatefulSet" or workload["spec"]["strategy"] == {"type": "Recreate"}, name
        assert workload["kind"] == "Deployment" or workload["spec"]["serviceName"] in of_kind("Service")


def test_ports_are_published_on_loopback_only() -> None:
    published = {name: s["ports"] for name, s in compose()["services"].items() if "ports" in s}
    assert published == {"broker": ["127.0.0.1:8080:8080"], "inspector": ["127.0.0.1:8090:8090"]}
    assert all(service["spec"].get("type", "ClusterIP") == "ClusterIP" for service in of_kind("Service").values())


def test_redis_keeps_what_it_is_told_and_drops_nothing() -> None:
    arguments = BOTH["compose"]["redis"].command
    said = dict(zip(arguments[1::2], arguments[2::2], strict=True))
    assert (said["--appendonly"], said["--maxmemory-policy"], said["--dir"]) == ("yes", "noeviction", "/data")
    assert BOTH["compose"]["redis"].mounts == BOTH["k8s"]["redis"].mounts == {"/data"}


def test_images_are_pinned() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for containers in BOTH.values():
        for name, container in containers.items():
            assert container.image == (f"opcod:{version}" if name != "redis" else "valkey/valkey:9.1.4-trixie")
    assert re.search(r"^ARG PYTHON_IMAGE=python:3\.11\.\d+-slim-\w+$", dockerfile(), re.MULTILINE)


def test_containers_run_without_privileges() -> None:
    user = re.search(r"^USER (\d+):\d+$", dockerfile(), re.MULTILINE)
    assert user is not None
    for name, pod in pods().items():
        assert pod["securityContext"]["runAsNonRoot"], name
        assert pod["securityContext"]["runAsUser"] == (999 if name == "redis" else int(user[1]))
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            assert container["securityContext"]["readOnlyRootFilesystem"]
            assert not container["securityContext"]["allowPrivilegeEscalation"]
            assert {"requests", "limits"} <= set(container["resources"])
    for service in compose()["services"].values():
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])


def test_the_image_has_what_the_project_is_made_of() -> None:
    copied = {source for line in re.findall(r"^COPY (.+) \S+$", dockerfile(), re.MULTILINE) for source in line.split()}
    allowed = set(re.findall(r"^!(.+)$", (ROOT / "docker" / "Dockerfile.dockerignore").read_text(), re.MULTILINE))
    assert copied == allowed
    assert all((ROOT / source).exists() for source in copied)
    assert {"opcod", "services", "shared", "presets", "constraints.txt"} <= copied


@pytest.mark.parametrize("service", PER_STUDENT)
def test_both_students_are_described_alike(service: str) -> None:
    first, second = ((BASE / f"{service}-{student}.yaml").read_text() for student in STUDENTS)
    assert first.replace(f"{service}-a", f"{service}-b").replace("value: a}", "value: b}") == second


def test_volumes_and_secrets_that_pods_name_exist() -> None:
    claims, read_me = of_kind("PersistentVolumeClaim"), (BASE / "kustomization.yaml").read_text()
    for name, pod in pods().items():
        for volume in pod.get("volumes", []):
            assert volume.get("persistentVolumeClaim", {}).get("claimName", "opcod-data") in claims, name
            if "secret" in volume:
                assert f"create secret generic {volume['secret']['secretName']} --from-literal=key=" in read_me
    assert set(yaml.safe_load(read_me)["resources"]) == {p.name for p in BASE.glob("*.yaml")} - {"kustomization.yaml"}


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        (("docker", "compose"), ("-f", str(ROOT / "docker-compose.yml"), "config", "-q")),
        (("kubectl", "kustomize"), (str(BASE),)),
    ],
)
def test_the_tools_accept_the_files(tool: tuple[str, str], arguments: tuple[str, ...]) -> None:
    if not shutil.which(tool[0]) or tool[1] not in run(tool[0], "help").stdout:
        pytest.skip(f"needs `{' '.join(tool)}`; the tests above have read the same files without it")
    done = run(*tool, *arguments)
    assert done.returncode == 0, done.stderr


def environment_of(container: Container) -> ServiceEnvironment:
    """What the service makes of the container's variables; all of them must be ones that something reads."""
    assert set(container.environment) <= variables() | {"OPCOD_RUNS_DIR"}
    fields = {name.removeprefix("OPCOD_").lower(): value for name, value in container.environment.items()}
    return ServiceEnvironment.model_validate(fields)


def variables() -> set[str]:
    return {f"OPCOD_{name.upper()}" for name in ServiceEnvironment.model_fields}


def common(container: Container) -> dict[str, str]:
    return {name: value for name, value in container.environment.items() if name not in OF_THE_PLACE}


def dockerfile() -> str:
    return (ROOT / "docker" / "Dockerfile").read_text()


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
