"""docker-compose.yml and k8s/ start what the code has, with variables that it reads, alike in both."""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import ClassVar

import pytest
import typer

from opcod.commands.keys import ACL_FILE, PASSWORD_FILE
from opcod.commands.prepare import PREPARED_FILE
from opcod.local.deployment import KEY_FILE
from opcod.main import app
from services.student.config import ScriptEnvironment
from shared.config.environment import ServiceEnvironment
from shared.config.loading import ENV_PREFIX, load_settings, preset_names
from shared.http.access import check_binding
from tests.deploy.deployed import (
    FOLLOWERS,
    OVERLAYS,
    PROFILES,
    ROOT,
    Container,
    compose,
    compose_containers,
    image_environment,
    kubernetes_containers,
    overlay,
    pods,
)
from tests.fakes.access import one_key

STUDENTS = ("a", "b")
PER_STUDENT = ("student", "trainer")
PER_RUN = ("broker", "inspector")
ANY_PLACE = ("redis", "prepare")
PROCESSES = {f"{service}-{student}" for service in PER_STUDENT for student in STUDENTS} | set(PER_RUN)
OURS = re.compile(r"(?P<process>(?:student|trainer)-[ab]|broker|inspector|prepare)(?:-gpu1?)?")
OF_THE_PLACE = {
    "OPCOD_REPLICA",
    "OPCOD_ADVERTISED_URL",
    "OPCOD_TRAIN",
    "OPCOD_NODES",
    "OPCOD_NODE_RANK",
    "OPCOD_RENDEZVOUS",
    "LWS_LEADER_ADDRESS",
    "LWS_GROUP_SIZE",
    "LWS_WORKER_INDEX",
    "POD_IP",
    "OPCOD_PRESET",
    "OPCOD_RUN",
    "OPCOD_RUN_DIR",
}


class Places(Mapping[str, Mapping[str, Container]]):
    """Containers by name, as each of PROFILES and of the overlays has them; read once somebody wants them."""

    _composed: ClassVar = {f"compose {'+'.join(profiles)}": profiles for profiles in PROFILES[:3]}
    _overlays: ClassVar = {f"k8s {name}": name for name in OVERLAYS}

    def __getitem__(self, where: str) -> Mapping[str, Container]:
        if where in self._composed:
            return compose_containers(*self._composed[where])
        return kubernetes_containers(self._overlays[where])

    def __iter__(self) -> Iterator[str]:
        yield from (*self._composed, *self._overlays)

    def __len__(self) -> int:
        return len(self._composed) + len(self._overlays)


PLACES = Places()


def processes(where: str) -> dict[str, Container]:
    """Our containers by the process's name, which says nothing of GPUs."""
    found = [(OURS.fullmatch(name), container) for name, container in PLACES[where].items()]
    return {match["process"]: container for match, container in found if match}


EVERY_PROCESS = [pytest.param(where, name, id=f"{where} {name}") for where in PLACES for name in sorted(PROCESSES)]


def environment_of(container: Container) -> ServiceEnvironment:
    """What the service makes of its variables."""
    said = {**image_environment(), **container.environment}
    fields = {name.removeprefix("OPCOD_").lower(): value for name, value in said.items() if name.startswith("OPCOD_")}
    return ServiceEnvironment.model_validate(fields)


def variables_read() -> set[str]:
    """Every OPCOD_ variable that the code reads: fields of environments, options of commands, and by name."""
    environments = ((ServiceEnvironment, "OPCOD_"), (ScriptEnvironment, "OPCOD_SCRIPT_"))
    found = {f"{prefix}{field.upper()}" for model, prefix in environments for field in model.model_fields}
    for command in typer.main.get_command(app).commands.values():  # type: ignore[attr-defined]
        found |= {str(parameter.envvar) for parameter in command.params if parameter.envvar}
    return found


def variables_named() -> Iterator[tuple[str, str]]:
    """(place, name) of every OPCOD_ variable that a container is given, but for settings."""
    for where, containers in PLACES.items():
        for name, container in containers.items():
            yield from ((f"{where} {name}", variable) for variable in container.environment if "OPCOD_" in variable)
    yield from (("docker/Dockerfile", variable) for variable in image_environment() if "OPCOD_" in variable)


@pytest.mark.parametrize("where", PLACES)
def test_every_service_of_the_code_is_deployed(where: str) -> None:
    assert {path.parent.name for path in (ROOT / "services").glob("*/__main__.py")} == {*PER_STUDENT, *PER_RUN}
    assert set(processes(where)) == PROCESSES | {"prepare"}
    assert "redis" in PLACES[where]


@pytest.mark.parametrize(("where", "name"), EVERY_PROCESS)
def test_a_process_is_started_as_on_a_laptop(where: str, name: str) -> None:
    container = processes(where)[name]
    service, _, student = name.partition("-")
    assert container.program == f"services.{service}"
    environment = environment_of(container)
    assert environment.student == (student or None)
    assert environment.port
    check_binding(environment.host, one_key("a key" if environment.key_file else None))


@pytest.mark.parametrize(("where", "name"), EVERY_PROCESS)
def test_what_a_process_reads_and_writes_lies_on_a_volume(where: str, name: str) -> None:
    container = processes(where)[name]
    environment = environment_of(container)
    assert environment.run_dir.name == environment.run
    secrets = (environment.key_file, environment.redis_password_file)
    assert [file.name for file in secrets if file] == [KEY_FILE, PASSWORD_FILE]
    for path in (environment.run_dir, environment.cache_dir, *secrets):
        assert any(PurePosixPath(str(path)).is_relative_to(mount) for mount in container.mounts), f"{name}: {path}"


@pytest.mark.parametrize(("where", "name"), EVERY_PROCESS)
def test_others_are_told_an_address_that_they_reach(where: str, name: str) -> None:
    environment = environment_of(processes(where)[name])
    assert environment.host == "0.0.0.0"
    trainer = name.startswith("trainer")
    assert environment.advertised_url == (None if trainer else f"http://{name}:{environment.port}")


@pytest.mark.parametrize("where", PLACES)
def test_redis_asks_for_the_password_and_keeps_what_it_is_told(where: str) -> None:
    program, *arguments = PLACES[where]["redis"].command
    said = dict(zip(arguments[::2], arguments[1::2], strict=True))
    assert program == "valkey-server"
    assert (said["--appendonly"], said["--maxmemory-policy"], said["--dir"]) == ("yes", "noeviction", "/data")
    acl = PurePosixPath(said["--aclfile"])
    assert acl.name == ACL_FILE
    assert {"/data", str(acl.parent)} == set(PLACES[where]["redis"].mounts)


def test_compose_and_kubernetes_say_the_same() -> None:
    left, right = processes("compose cpu"), processes("k8s laptop-cpu")
    for name in left:
        assert left[name].image == right[name].image, name
        assert left[name].command == right[name].command, name
        if name != "prepare":
            assert common(left[name]) == common(right[name]), name
    redis = [PLACES[where]["redis"] for where in ("compose cpu", "k8s laptop-cpu")]
    assert redis[0].command == redis[1].command and redis[0].image == redis[1].image


@pytest.mark.parametrize("where", PLACES)
def test_what_is_prepared_is_what_is_served(where: str) -> None:
    prepare = processes(where)["prepare"]
    said = {**image_environment(), **prepare.environment}
    served = environment_of(processes(where)["broker"])
    assert prepare.program == "opcod prepare"
    assert str(served.run_dir) == f"{said['OPCOD_RUNS_DIR']}/{said['OPCOD_RUN']}"
    assert str(served.cache_dir) == said["OPCOD_CACHE_DIR"]
    assert str(served.key_file) == said["OPCOD_KEY_FILE"]
    assert said["OPCOD_PRESET"] in preset_names()
    settings = load_settings(preset=said["OPCOD_PRESET"], environ=said)
    assert settings.serving.broker_port == settings.serving.inspector_port == 0, "the containers say the ports"


def test_variables_that_containers_are_given_are_read_by_the_code() -> None:
    known = variables_read()
    unknown = [f"{where}: {name}" for where, name in variables_named() if name not in known]
    assert not [each for each in unknown if f": {ENV_PREFIX}" not in each]


def test_nothing_that_a_service_must_be_told_is_left_out() -> None:
    """Of a service's variables, those with a default that fits every container are not named."""
    named = {name for _, name in variables_named()}
    left_out = {f"OPCOD_{field.upper()}" for field in ServiceEnvironment.model_fields} - named
    assert left_out == {"OPCOD_URL_FILE", "OPCOD_LOG_JSON"}


@pytest.mark.parametrize("where", [where for where in PLACES if where.startswith("compose")])
def test_compose_starts_nothing_before_the_run_is_prepared(where: str) -> None:
    for name, container in processes(where).items():
        done = {other for other, until in container.after.items() if until == "service_completed_successfully"}
        assert done - {"students", "trainers"} == ({"keys"} if name == "prepare" else {"prepared"}), name


@pytest.mark.parametrize("where", [where for where in PLACES if where.startswith("compose")])
def test_what_compose_takes_for_a_warning_is_looked_at_by_a_gate_that_the_rest_needs(where: str) -> None:
    containers = PLACES[where]
    gates = {name for name, container in containers.items() if container.optional}
    assert gates == {"prepared", "trainers"}
    prepares = {name for name in containers if name.startswith("prepare")} - gates
    trainers = {name for name, each in containers.items() if each.program == "services.trainer"}
    assert (containers["prepared"].optional, containers["trainers"].optional) == (prepares, trainers)
    assert containers["prepared"].command == ("opcod", "prepare", "--check")
    assert containers["broker"].after["trainers"] == "service_completed_successfully"


@pytest.mark.parametrize("where", [where for where in PLACES if where.startswith("compose")])
def test_what_is_started_again_without_end_is_waited_for_with_a_deadline(where: str) -> None:
    """Compose waits for who is to be healthy as long as it is started again: only gates, which end, wait for those."""
    containers = PLACES[where]
    for kind in PER_STUDENT:
        gate, ports = containers[f"{kind}s"], {"student": 8100, "trainer": 8200}
        asks, option, wait_s, *asked = gate.command[2:]
        assert (asks, option) == ("shared.http.probing", "--wait") and float(wait_s) > 0
        assert set(asked) == {f"http://{kind}-{student}:{ports[kind]}" for student in STUDENTS}
        named = {name for name in gate.after if name.startswith(f"{kind}-")}
        assert {environment_of(containers[name]).port for name in named} == {ports[kind]} and len(named) == len(
            STUDENTS
        )
        assert {gate.after[name] for name in named} == {"service_started"}
        assert containers["broker"].after[f"{kind}s"] == "service_completed_successfully"
    waited = {
        other for each in containers.values() for other, until in each.after.items() if until == "service_healthy"
    }
    assert not [name for name in waited if name.startswith(PER_STUDENT)]


@pytest.mark.parametrize("profile", ["cpu", "gpu", "gpu1"])
def test_what_does_not_train_starts_no_trainers_and_waits_for_none(profile: str) -> None:
    containers = compose_containers(profile, variables=(("OPCOD_TRAIN", "false"),))
    assert not [name for name, each in containers.items() if each.program == "services.trainer"]
    assert set(compose_containers(profile)) - set(containers) >= {"trainers"}
    assert "trainers" not in containers and set(containers["broker"].after) <= set(containers)
    assert environment_of(containers["broker"]).train is False


@pytest.mark.parametrize("where", PLACES)
def test_a_login_link_names_what_the_operator_can_open(where: str) -> None:
    inspector = environment_of(processes(where)["inspector"])
    assert inspector.public_url == f"http://127.0.0.1:{inspector.port}"


@pytest.mark.parametrize("where", PLACES)
def test_somebody_writes_the_report_of_a_run_that_has_no_launcher(where: str) -> None:
    report = PLACES[where]["report"]
    assert report.command == ("opcod", "report", "--wait")
    assert str(environment_of(processes(where)["broker"]).run_dir).startswith("/data/runs/")
    assert "/data/runs" in report.mounts and report.environment["OPCOD_RUN"]


def test_pods_wait_for_what_prepare_writes_last() -> None:
    for name in OVERLAYS:
        found = pods(overlay(name))
        for process in (each for each in found if OURS.fullmatch(each.removesuffix(FOLLOWERS)) and each != "prepare"):
            first = found[process]["spec"]["initContainers"]
            (waiting,) = (each for each in first if each["name"] == "wait-for-prepare")
            assert f"$OPCOD_RUN_DIR/{PREPARED_FILE}" in waiting["command"][-1]


def test_ports_of_compose_are_on_loopback_and_where_services_listen() -> None:
    services = compose("cpu", "monitor")["services"]
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert set(published) == {"broker", "inspector", "prometheus", "grafana"}
    for name, ports in published.items():
        (port,) = ports
        assert port["host_ip"] == "127.0.0.1"
        if name in PER_RUN:
            assert str(port["target"]) == services[name]["environment"]["OPCOD_PORT"] == port["published"]
            (said,) = re.findall(rf"http://127\.0\.0\.1:{port['published']}", services["announce"]["command"][-1])
            assert said


def common(container: Container) -> dict[str, str]:
    return {name: value for name, value in container.environment.items() if name not in OF_THE_PLACE}


def test_the_code_names_no_other_variable_by_hand() -> None:
    """Variables read past the environments' models are the launcher's and the tests', or say a setting in short, which
    containers do with OPCOD_SET_…: none is for them."""
    read = set()
    for top in ("shared", "services", "opcod"):
        for path in (ROOT / top).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    read |= set(re.findall(r"^OPCOD_[A-Z_]*[A-Z]$", node.value))
    by_hand = read - variables_read()
    assert by_hand == {"OPCOD_PARENT_PID", "OPCOD_FAULT", "OPCOD_FAULTS_ALLOWED", "OPCOD_RANKS"}
