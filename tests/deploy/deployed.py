"""What docker-compose.yml and k8s/ say of each container, as the tools themselves read them, in one shape."""

import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.tools import tool

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "k8s"
DOCKERFILE = ROOT / "docker" / "Dockerfile"
PROFILES = (("cpu",), ("gpu",), ("gpu1",), ("cpu", "monitor"), ("gpu", "monitor"), ("cpu", "cli"))
OVERLAYS = tuple(sorted(path.name for path in (K8S / "overlays").iterdir()))

FOLLOWERS = "-followers"
"""Of the pods of a group but the first."""

Tree = dict[str, Any]

_EXPANSION = re.compile(r"\$\((\w+)\)")


@dataclass(frozen=True)
class Container:
    """mounts: what lies at which path. after: the containers it waits for, and until what. optional: those of them
    whose failure compose takes for a warning."""

    name: str
    image: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    mounts: Mapping[str, str]
    after: Mapping[str, str] = field(default_factory=dict)
    optional: frozenset[str] = frozenset()

    @property
    def program(self) -> str:
        """`services.broker`, `opcod prepare`, or the command's first word."""
        if self.command[:2] == ("python", "-m"):
            return self.command[2]
        return " ".join(self.command[:2]) if self.command[0] == "opcod" else self.command[0]


# Compose --------------------------------------------------------------------------------------------------
@cache
def compose(*profiles: str, variables: tuple[tuple[str, str], ...] = ()) -> Tree:
    """docker-compose.yml with `profiles`, or as it is without any. variables: of the shell that starts it."""
    options = [part for profile in profiles for part in ("--profile", profile)]
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **dict(variables)}
    done = subprocess.run(
        [tool("docker-compose"), *options, "config", "--format", "json"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    tree: Tree = json.loads(done.stdout)
    return tree


def compose_containers(*profiles: str, variables: tuple[tuple[str, str], ...] = ()) -> dict[str, Container]:
    """Without the services that are to have no container; nobody waits for those."""
    services = compose(*profiles, variables=variables)["services"]
    started = {name: service for name, service in services.items() if service.get("scale", 1)}
    return {name: _of_compose(name, service, set(started)) for name, service in started.items()}


def _of_compose(name: str, service: Tree, present: set[str]) -> Container:
    words = [*(service.get("entrypoint") or []), *(service.get("command") or [])]
    mounts = {mount["target"]: mount["source"] for mount in service.get("volumes", [])}
    needs = service.get("depends_on", {})
    after = {other: need["condition"] for other, need in needs.items() if other in present}
    optional = frozenset(other for other in after if not needs[other]["required"])
    return Container(name, service["image"], tuple(words), service.get("environment", {}), mounts, after, optional)


# Kubernetes -----------------------------------------------------------------------------------------------
@cache
def rendered(directory: Path) -> tuple[Tree, ...]:
    """Every object of a kustomization."""
    done = subprocess.run(
        [tool("kustomize"), "build", str(directory)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def overlay(name: str) -> tuple[Tree, ...]:
    return rendered(K8S / "overlays" / name)


def of_kind(objects: tuple[Tree, ...], *kinds: str) -> dict[str, Tree]:
    return {each["metadata"]["name"]: each for each in objects if each["kind"] in kinds}


def pods(objects: tuple[Tree, ...]) -> dict[str, Tree]:
    """The template of each workload's pods; of a group that of its first pod by its name, and that of the others."""
    workloads = of_kind(objects, "Deployment", "StatefulSet", "Job")
    found = {name: workload["spec"]["template"] for name, workload in workloads.items()}
    for name, group in of_kind(objects, "LeaderWorkerSet").items():
        templates = group["spec"]["leaderWorkerTemplate"]
        found |= {name: templates["leaderTemplate"], f"{name}{FOLLOWERS}": templates["workerTemplate"]}
    return found


def pod_containers(pod: Tree) -> Iterator[Tree]:
    yield from (*pod["spec"]["containers"], *pod["spec"].get("initContainers", []))


def kubernetes_containers(name: str) -> dict[str, Container]:
    """The main container of each workload of an overlay, by the workload's name."""
    objects = overlay(name)
    return {workload: _of_pod(workload, pod, objects) for workload, pod in pods(objects).items()}


def _of_pod(name: str, pod: Tree, objects: tuple[Tree, ...]) -> Container:
    container = pod["spec"]["containers"][0]
    environment = _by_controller(name, objects)
    for source in container.get("envFrom", []):
        environment |= of_kind(objects, "ConfigMap")[source["configMapRef"]["name"]]["data"]
    for entry in container.get("env", []):
        value = entry["value"] if "value" in entry else _field(entry["valueFrom"]["fieldRef"]["fieldPath"], name, pod)
        environment[entry["name"]] = _EXPANSION.sub(lambda found: environment[found[1]], value)
    mounts = {mount["mountPath"]: f"{mount['name']}/{mount.get('subPath', '')}" for mount in container["volumeMounts"]}
    return Container(name, container["image"], tuple(container["command"]), environment, mounts)


def _by_controller(name: str, objects: tuple[Tree, ...]) -> dict[str, str]:
    """What LeaderWorkerSet's own tells a pod of a group."""
    first = name.removesuffix(FOLLOWERS)
    group = of_kind(objects, "LeaderWorkerSet").get(first)
    if group is None:
        return {}
    return {
        "LWS_LEADER_ADDRESS": f"{first}-0.{first}.opcod",
        "LWS_GROUP_SIZE": str(group["spec"]["leaderWorkerTemplate"]["size"]),
        "LWS_WORKER_INDEX": "0" if name == first else "1",
    }


def _field(path: str, name: str, pod: Tree) -> str:
    """What the cluster fills in; for a pod's address, its workload's name."""
    if path.startswith("metadata.labels["):
        return str(pod["metadata"]["labels"][path.removeprefix("metadata.labels['").removesuffix("']")])
    return {"metadata.name": f"{name}-0", "status.podIP": name}[path]


# Images ---------------------------------------------------------------------------------------------------
def image_environment() -> dict[str, str]:
    """ENV of the stage that both images are made from."""
    text = DOCKERFILE.read_text()
    stage = text[text.index("AS runtime") :]
    lines = re.findall(r"^ENV ((?:.*\\\n)*.*)$", stage, re.MULTILINE)
    return dict(pair.split("=", 1) for line in lines for pair in line.replace("\\\n", " ").split())
