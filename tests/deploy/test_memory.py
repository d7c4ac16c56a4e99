"""What containers and pods on GPUs may take of the host's memory is what the paper's pair takes by the plan."""

import re

import pytest

from opcod.planning.host import host_needs
from opcod.planning.memory import Need
from opcod.planning.shapes import KNOWN_SHAPES
from shared.config.loading import load_settings
from tests.deploy.deployed import compose, overlay, pods

UNITS = {"": 1, "Mi": 2**20, "Gi": 2**30}


def needs() -> dict[str, Need]:
    settings = load_settings(preset="phys-chem", environ={})
    shapes = {name: KNOWN_SHAPES[section.model] for name, section in settings.students.items()}
    return {need.service: need for need in host_needs(settings, shapes)}


def size(text: str) -> int:
    match = re.fullmatch(r"([0-9]+)(|Mi|Gi)", text)
    assert match is not None, text
    return int(match[1]) * UNITS[match[2]]


def require(limit: str, *services: str, besides: int = 0) -> None:
    """Room for each of the services, which are not there at the same time."""
    for service in services:
        assert size(limit) >= needs()[service].bytes + besides, (service, limit)


@pytest.mark.parametrize(("profile", "suffix"), [("gpu", ""), ("gpu1", "-gpu1")])
def test_a_container_may_take_what_its_process_needs(profile: str, suffix: str) -> None:
    services = compose(profile)["services"]
    limits = {name: service["mem_limit"] for name, service in services.items() if "mem_limit" in service}
    # What it writes to shared memory is counted to it.
    shared = {name: int(service.get("shm_size", 0)) for name, service in services.items()}
    engines = {"a": "vllm-a", "b": f"vllm-b{suffix}"}
    for student in "ab":
        require(limits[f"student-{student}"], f"student-{student}")
        require(limits[engines[student]], f"engine-{student}", besides=shared[engines[student]])
        require(limits[f"trainer-{student}-{profile}"], f"trainer-{student}")
    require(limits["prepare-gpu"], "specialist-a", "specialist-b")


def test_a_pod_may_take_what_its_processes_need() -> None:
    limits = {
        (workload, container["name"]): container["resources"]["limits"]["memory"]
        for workload, pod in pods(overlay("gpu")).items()
        for container in (*pod["spec"]["containers"], *pod["spec"].get("initContainers", []))
        if "limits" in container.get("resources", {})
    }
    for student in "ab":
        require(limits[f"student-{student}", "opcod"], f"student-{student}")
        require(limits[f"student-{student}", "vllm"], f"engine-{student}", besides=8 * 2**30)
        require(limits[f"trainer-{student}", "opcod"], f"trainer-{student}")
    require(limits["prepare", "opcod"], "specialist-a", "specialist-b")


def test_a_plan_that_outgrows_a_limit_is_seen() -> None:
    with pytest.raises(AssertionError, match="trainer-a"):
        require("20Gi", "trainer-a")
