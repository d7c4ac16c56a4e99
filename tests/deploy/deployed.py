"""What docker-compose.yml and k8s/base say of each container, in one shape, so that tests can compare them."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "k8s" / "base"
FROM_FIELD = {"metadata.name": "pod-0", "status.podIP": "10.1.2.3"}

Tree = dict[str, Any]


@dataclass(frozen=True)
class Container:
    """mounts: the paths at which volumes lie. port: what the service is reached at, if it is."""

    image: str
    command: tuple[str, ...]
    environment: dict[str, str]
    mounts: frozenset[str]
    port: int | None = None


def compose() -> Tree:
    """docker-compose.yml, every ${NAME:-default} replaced by its default."""
    text = (ROOT / "docker-compose.yml").read_text()
    tree: Tree = yaml.safe_load(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text))
    return tree


def kubernetes() -> list[Tree]:
    """Every document of the files that the kustomization names."""
    files = yaml.safe_load((BASE / "kustomization.yaml").read_text())["resources"]
    return [document for file in files for document in yaml.safe_load_all((BASE / file).read_text())]


def of_kind(*kinds: str) -> dict[str, Tree]:
    return {document["metadata"]["name"]: document for document in kubernetes() if document["kind"] in kinds}


def pods() -> dict[str, Tree]:
    workloads = of_kind("Deployment", "StatefulSet", "Job")
    return {name: workload["spec"]["template"]["spec"] for name, workload in workloads.items()}


def compose_containers() -> dict[str, Container]:
    return {name: _of_compose(service) for name, service in compose()["services"].items()}


def kubernetes_containers() -> dict[str, Container]:
    return {name: _of_pod(pod) for name, pod in pods().items()}


def _of_compose(service: Tree) -> Container:
    environment = service.get("environment", {})
    mounts = frozenset(mount.split(":")[1] for mount in service["volumes"])
    port = environment.get("OPCOD_PORT")
    return Container(service["image"], tuple(service["command"]), environment, mounts, int(port) if port else None)


def _of_pod(pod: Tree) -> Container:
    (container,) = pod["containers"]
    environment: dict[str, str] = {}
    for source in container.get("envFrom", []):
        if not source["configMapRef"].get("optional"):
            environment |= of_kind("ConfigMap")[source["configMapRef"]["name"]]["data"]
    for entry in container.get("env", []):
        value = entry.get("value") or FROM_FIELD[entry["valueFrom"]["fieldRef"]["fieldPath"]]
        environment[entry["name"]] = value
    mounts = frozenset(mount["mountPath"] for mount in container["volumeMounts"])
    port = container["ports"][0]["containerPort"] if "ports" in container else None
    return Container(
        container["image"], tuple(container.get("command") or container["args"]), environment, mounts, port
    )
