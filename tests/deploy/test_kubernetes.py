"""Every overlay, and every component on top of one: renders, fits the schemas strictly, and keeps the rules."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest

from opcod.commands.k8s import k8s as write_k8s
from opcod.commands.keys import ACL_FILE
from opcod.planning.disk import disk_parts, shapes_of
from shared.config.loading import load_settings
from shared.http.guard import OPEN_PATHS
from tests.deploy.deployed import (
    FOLLOWERS,
    K8S,
    OVERLAYS,
    ROOT,
    Tree,
    of_kind,
    overlay,
    pod_containers,
    pods,
    rendered,
)
from tests.deploy.overlays import ALL, EACH, SERVICES, own_overlay, with_component
from tests.deploy.policies import selects
from tests.fakes.waiting import WAIT_S

VERSIONS = ("1.32", "1.37")
"""Of Kubernetes: the oldest and the newest whose schemas are at hand and that these files are for."""

SCHEMAS = Path(__file__).parent / "schemas"


def workloads(objects: tuple[Tree, ...]) -> Iterator[tuple[str, Tree]]:
    yield from of_kind(objects, "Deployment", "StatefulSet", "Job").items()


@EACH
def test_a_preparation_takes_as_long_as_it_takes_and_all_wait_for_it(objects: tuple[Tree, ...], tmp_path: Path) -> None:
    """A model of 16 GB over a slow line, answers of its own and a specialist of them are hours."""
    for each in of_kind(objects, "Job").values():
        assert "activeDeadlineSeconds" not in each["spec"]
    commands = {
        tuple(container["command"])
        for _, workload in workloads(objects)
        for container in workload["spec"]["template"]["spec"].get("initContainers", ())
        if container["name"] == "wait-for-prepare"
    }
    (command,) = commands
    waiting = subprocess.Popen(command, env={"PATH": os.environ["PATH"], "OPCOD_RUN_DIR": str(tmp_path)})
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(0.2)
    (tmp_path / "prepared.json").touch()
    assert waiting.wait(WAIT_S) == 0


def test_who_waits_for_a_preparation_ends_when_told_to(tmp_path: Path) -> None:
    pod = pods(ALL["laptop-cpu"])["broker"]
    (command,) = (each["command"] for each in pod_containers(pod) if each["name"] == "wait-for-prepare")
    waiting = subprocess.Popen(command, env={"PATH": os.environ["PATH"], "OPCOD_RUN_DIR": str(tmp_path)})
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(0.2)
    waiting.terminate()
    assert waiting.wait(WAIT_S) == 1


@EACH
def test_the_volume_holds_the_preset_that_is_deployed(objects: tuple[Tree, ...]) -> None:
    preset = of_kind(objects, "ConfigMap")["opcod-environment"]["data"]["OPCOD_PRESET"]
    settings = load_settings(preset=preset, environ={})
    needed = sum(part.bytes for part in disk_parts(settings, shapes_of(settings)))
    claim = of_kind(objects, "PersistentVolumeClaim")["opcod-data"]["spec"]["resources"]["requests"]["storage"]
    assert claim.endswith("Gi") and int(claim.removesuffix("Gi")) * 2**30 > 4 * needed


def test_the_volume_of_redis_holds_its_log_while_that_is_rewritten() -> None:
    redis = of_kind(ALL["laptop-cpu"], "StatefulSet")["redis"]["spec"]
    command = redis["template"]["spec"]["containers"][0]["command"]
    most = command[command.index("--maxmemory") + 1]
    (claim,) = (each["spec"]["resources"]["requests"]["storage"] for each in redis["volumeClaimTemplates"])
    assert int(claim.removesuffix("Gi")) * 1024 >= 4 * int(most.removesuffix("mb"))


@EACH
@pytest.mark.parametrize("version", VERSIONS)
def test_it_fits_the_schemas_strictly(objects: tuple[Tree, ...], version: str) -> None:
    for each in objects:
        validate(json.dumps(each), version)


@cache
def validate(text: str, version: str) -> None:
    """Once for each object: most are the same in all overlays."""
    each = json.loads(text)
    own = SCHEMAS / f"{each['kind']}.json"
    if own.exists():
        jsonschema.validate(each, json.loads(own.read_text()))
        for template in pods((each,)).values():
            pod = {"apiVersion": "v1", "kind": "Pod", **template, "metadata": {"name": "any", **template["metadata"]}}
            kubernetes_validate.validate(pod, version, strict=True)
    else:
        kubernetes_validate.validate(each, version, strict=True)


def test_a_mistake_is_seen() -> None:
    (redis,) = (each for each in ALL["laptop-cpu"] if (each["kind"], each["metadata"]["name"]) == ("Service", "redis"))
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**redis, "spec": {**redis["spec"], "prots": []}}, VERSIONS[0], strict=True)


@EACH
def test_everything_lies_in_the_one_restricted_namespace(objects: tuple[Tree, ...]) -> None:
    (namespace,) = of_kind(objects, "Namespace").values()
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert {each["metadata"].get("namespace", "opcod") for each in objects} == {"opcod"}


@EACH
def test_pods_are_as_restricted_as_the_namespace_asks(objects: tuple[Tree, ...]) -> None:
    for name, pod in pods(objects).items():
        context = pod["spec"]["securityContext"]
        assert context["runAsNonRoot"] and context["runAsUser"] > 0, name
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod["spec"])
        for container in pod_containers(pod):
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False, f"{name} {container['name']}"
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"] == {"drop": ["ALL"]}
        kinds = {kind for volume in pod["spec"].get("volumes", []) for kind in volume if kind != "name"}
        assert kinds <= {"persistentVolumeClaim", "secret", "emptyDir", "configMap"}, name


@EACH
def test_no_pod_gets_a_token_of_the_cluster(objects: tuple[Tree, ...]) -> None:
    accounts = of_kind(objects, "ServiceAccount")
    for name, pod in pods(objects).items():
        assert pod["spec"]["automountServiceAccountToken"] is False, name
        assert accounts[pod["spec"]["serviceAccountName"]]["automountServiceAccountToken"] is False
    assert not of_kind(objects, "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")


@EACH
def test_every_container_asks_for_what_it_needs_and_has_a_limit(objects: tuple[Tree, ...]) -> None:
    for name, pod in pods(objects).items():
        for container in pod_containers(pod):
            assert {"cpu", "memory"} <= set(container["resources"]["requests"]), name
            assert "memory" in container["resources"]["limits"], name


@EACH
def test_secrets_are_files_and_none_is_in_the_tree(objects: tuple[Tree, ...]) -> None:
    assert not of_kind(objects, "Secret")
    for name, pod in pods(objects).items():
        for container in pod_containers(pod):
            assert not [entry for entry in container.get("env", []) if "secretKeyRef" in entry.get("valueFrom", {})]
            assert not [source for source in container.get("envFrom", []) if "secretRef" in source]
        for volume in pod["spec"].get("volumes", []):
            if "secret" in volume:
                assert volume["secret"]["defaultMode"] & 0o007 == 0, name


def test_redis_sees_of_the_secret_only_who_may_do_what() -> None:
    (volume,) = pods(ALL["laptop-cpu"])["redis"]["spec"]["volumes"]
    assert volume["secret"]["items"] == [{"key": ACL_FILE, "path": ACL_FILE}]


@EACH
def test_services_are_probed_where_they_answer_and_have_time_to_stop(objects: tuple[Tree, ...]) -> None:
    assert {"/livez", "/readyz"} <= OPEN_PATHS
    found = of_kind(objects, "Service")
    for name, workload in workloads(objects):
        service = name.partition("-")[0]
        if service not in SERVICES:
            continue
        pod = workload["spec"]["template"]["spec"]
        container = pod["containers"][0]
        for probe, path in (("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
            assert container[probe]["httpGet"] == {"path": path, "port": "http"}, name
        assert container["ports"][0] == {"name": "http", "containerPort": SERVICES[service]}
        assert found[name]["spec"]["ports"] == [{"name": "http", "port": SERVICES[service], "targetPort": "http"}]
        assert pod["terminationGracePeriodSeconds"] >= 60 and "preStop" in container["lifecycle"]


@EACH
def test_there_is_never_a_second_broker_trainer_or_inspector(objects: tuple[Tree, ...]) -> None:
    for name, workload in workloads(objects):
        if workload["kind"] == "Deployment":
            assert workload["spec"]["strategy"] == {"type": "Recreate"}, name
        if not name.startswith("student"):
            assert workload["spec"].get("replicas", 1) == 1, name


@EACH
def test_selectors_and_names_meet(objects: tuple[Tree, ...]) -> None:
    labels = {name: pod["metadata"]["labels"] for name, pod in pods(objects).items()}
    for name, service in of_kind(objects, "Service").items():
        chosen = {pod for pod, own in labels.items() if service["spec"]["selector"].items() <= own.items()}
        assert chosen == {name}
    claims = {*of_kind(objects, "PersistentVolumeClaim")}
    for name, workload in workloads(objects):
        assert workload["spec"].get("serviceName", name) == name
        for volume in workload["spec"]["template"]["spec"].get("volumes", []):
            assert volume.get("persistentVolumeClaim", {}).get("claimName", "opcod-data") in claims
    for name, policy in of_kind(objects, "NetworkPolicy").items():
        assert [pod for pod, own in labels.items() if selects(policy["spec"]["podSelector"], own)], f"{name}: no pod"


@EACH
def test_disruption_budgets_never_block_a_drain(objects: tuple[Tree, ...]) -> None:
    budgets = of_kind(objects, "PodDisruptionBudget")
    assert set(budgets) == {"student-a", "student-b"}
    for budget in budgets.values():
        assert budget["spec"]["maxUnavailable"] >= 1 and "minAvailable" not in budget["spec"]


def test_a_redis_of_ones_own_replaces_ours() -> None:
    objects = ALL["with external-redis"]
    assert "redis" not in {**pods(objects), **of_kind(objects, "Service")}
    assert of_kind(objects, "ConfigMap")["opcod-environment"]["data"]["OPCOD_REDIS_URL"].startswith("rediss://")


def test_models_on_a_volume_are_there_for_all_who_load_them() -> None:
    on_gpus = with_component("model-volume", "model-volume/engines", on="gpu")
    on_nodes = with_component("model-volume", "model-volume/engines", "model-volume/groups", on="gpu-nodes")
    for objects in (ALL["with model-volume"], on_gpus, on_nodes):
        for name, pod in pods(objects).items():
            volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
            for container in pod_containers(pod):
                mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
                loads = name.startswith(("student", "trainer", "prepare")) and container["name"] != "wait-for-prepare"
                assert ("/models" in mounts) == loads, f"{name} {container['name']}"
                assert {mount["name"] for mount in container["volumeMounts"]} <= volumes | {"redis-data"}


def test_the_overlay_that_the_documentation_shows_renders() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "deploy.md").read_text(), re.DOTALL)
    objects = own_overlay("documented", text)
    assert {"Ingress", "PodMonitor", "PrometheusRule"} <= {each["kind"] for each in objects}
    environment = of_kind(objects, "ConfigMap")["opcod-environment"]["data"]
    assert (environment["OPCOD_RUN"], environment["OPCOD_SET_RUN__SEED"]) == ("r2", "1")
    used = {container["image"] for pod in pods(objects).values() for container in pod_containers(pod)}
    assert {image.partition("/")[0] for image in used} == {"REGISTRY", "valkey"}


@pytest.mark.parametrize("name", OVERLAYS)
def test_for_another_run_the_documented_commands_begin_all_anew_who_read_its_name(name: str) -> None:
    text = "".join((ROOT / "docs" / page).read_text() for page in ("deploy.md", "cluster.md"))
    (jobs,) = re.findall(r"`kubectl -n opcod delete job ([\w ]+)`", text)
    (restarted,) = re.findall(r"`kubectl -n opcod rollout restart deployment,statefulset -l (\S+)`", text)
    (deleted,) = re.findall(r"`kubectl -n opcod delete pod -l (\S+)`", text)
    objects = overlay(name)
    begun = {
        *jobs.split(),
        *(key for key, each in of_kind(objects, "Deployment", "StatefulSet").items() if chosen(restarted, each)),
        *(key for key, pod in pods(objects).items() if chosen(deleted, pod)),
    }
    assert begun == {key for key in pods(objects) if not key.endswith(FOLLOWERS)} - {"redis"}
    for key, pod in pods(objects).items():
        told = [source for each in pod_containers(pod) for source in each.get("envFrom", [])]
        assert not told or key.removesuffix(FOLLOWERS) in begun, key


def test_what_is_to_be_copied_lies_where_the_documentation_says() -> None:
    (claim,) = re.findall(r"the claim `(.+?)`", (ROOT / "docs" / "backup-and-upgrade.md").read_text())
    pod = pods(ALL["laptop-cpu"])["prepare"]["spec"]
    (volume,) = (each["name"] for each in pod["volumes"] if each.get("persistentVolumeClaim") == {"claimName": claim})
    mounts = pod["containers"][0]["volumeMounts"]
    assert {each["subPath"] for each in mounts if each["name"] == volume} == {"runs", "cache"}


def chosen(selector: str, labelled: Tree) -> bool:
    """Of kubectl: `label=value` and `label`, all of them."""
    labels = labelled["metadata"].get("labels", {})
    parts = [part.partition("=") for part in selector.split(",")]
    return all(key in labels and (not is_value or labels[key] == value) for key, is_value, value in parts)


def test_three_students_have_a_trainer_on_several_nodes_each(tmp_path: Path) -> None:
    copy = tmp_path / "k8s"
    shutil.copytree(K8S, copy)
    write_k8s(copy, preset="trio")
    objects = rendered(copy / "overlays" / "gpu-nodes")
    assert set(of_kind(objects, "LeaderWorkerSet")) == {"trainer-a", "trainer-b", "trainer-c"}
    assert set(of_kind(objects, "StatefulSet")) == {"redis", "student-a", "student-b", "student-c"}
