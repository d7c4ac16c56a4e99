"""Every overlay, and every component on top of one, as kustomize renders them; and who must reach whom in each."""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import ClassVar

import pytest
import yaml

from shared.files.durable import atomic_write
from tests.deploy.deployed import FOLLOWERS, K8S, OVERLAYS, ROOT, Tree, overlay, pod_containers, pods, rendered

COMPONENTS = tuple(sorted(path.name for path in (K8S / "components").iterdir()))
SERVICES = {"broker": 8080, "inspector": 8090, "student": 8100, "trainer": 8200}


@cache
def with_component(*names: str, on: str = "laptop-cpu") -> tuple[Tree, ...]:
    """Components on top of an overlay, as an overlay of somebody's own would have them."""
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [f"../{on}"],
        "components": [f"../../components/{name}" for name in names],
    }
    return own_overlay("-".join((on, *names)).replace("/", "-"), yaml.safe_dump(kustomization))


def own_overlay(name: str, text: str) -> tuple[Tree, ...]:
    """What a kustomization.yaml beside our overlays renders to."""
    directory = ROOT / "build" / "k8s" / name
    directory.mkdir(parents=True, exist_ok=True)
    there = re.sub(r"\.\./\.\./(?=components/)", "../../../k8s/", text)
    text = re.sub(r"(?<![/.])\.\./(?=\w)", "../../../k8s/overlays/", there)
    # Whole at once: every worker of the suite writes it as it collects the tests, and kustomize of another reads it.
    atomic_write(directory / "kustomization.yaml", text.encode())
    return rendered(directory)


class Rendered(Mapping[str, tuple[Tree, ...]]):
    """By name, each rendered once somebody wants it: whoever only collects the tests wants none."""

    _components: ClassVar = {f"with {name}": name for name in COMPONENTS}

    def __getitem__(self, name: str) -> tuple[Tree, ...]:
        return with_component(self._components[name]) if name in self._components else overlay(name)

    def __iter__(self) -> Iterator[str]:
        yield from (*OVERLAYS, *self._components)

    def __len__(self) -> int:
        return len(OVERLAYS) + len(self._components)


ALL = Rendered()
EACH = pytest.mark.parametrize("objects", ALL, indirect=True)
"""The fixture `objects` has those of each of ALL."""


def is_grouped(name: str, objects: tuple[Tree, ...]) -> bool:
    return f"{name.removesuffix(FOLLOWERS)}{FOLLOWERS}" in pods(objects)


def listening(objects: tuple[Tree, ...]) -> set[tuple[str, int]]:
    """(workload, port) of everything that listens."""
    return {
        (name, port["containerPort"])
        for name, pod in pods(objects).items()
        for container in pod_containers(pod)
        for port in container.get("ports", [])
    }


def must_reach(source: str, target: str, objects: tuple[Tree, ...]) -> bool:
    """Services keep to Redis, the broker asks the students, broker and inspector each other; the command line asks in
    their pods, by the names of their services. Ranks of a group reach each other; but for the first, nobody else."""
    heads = {"broker", "inspector"}
    if is_grouped(source, objects) and source.removesuffix(FOLLOWERS) == target.removesuffix(FOLLOWERS):
        return True
    return (
        (target == "redis" and source.partition("-")[0] in SERVICES and not source.endswith(FOLLOWERS))
        or (source == "broker" and target.startswith("student"))
        or {source, target} <= heads
    )
