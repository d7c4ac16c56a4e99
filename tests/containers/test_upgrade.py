"""A run that the images of a commit before have begun goes on under these."""

import os
import re
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.containers.engine import run
from tests.containers.project import SERVICES, Project
from tests.deploy.deployed import ROOT
from tests.fakes.deployment import assert_applied_once

CHOSEN = "OPCOD_UPGRADE_FROM"
"""Names the commit before; without it the newest is taken whose images hold something else."""

HELD = (
    "docker/Dockerfile",
    "docker/install.sh",
    "docker/requirements",
    "docker-compose.yml",
    "pyproject.toml",
    "opcod",
    "services",
    "shared",
    "presets",
)
"""What images are made of."""

GIT = ("git", "-C", str(ROOT))
STEPS = 3
CONTRACT = "tests/contract/golden"


def commit_before() -> str:
    chosen = os.environ.get(CHOSEN)
    if chosen:
        return chosen
    # Merges and commits of documents and tests make the same images.
    command = [*GIT, "log", "-1", "--format=%H", "--", *HELD]
    changed = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return f"{changed or 'HEAD'}~1"


@pytest.fixture
def before(project: Project, tmp_path: Path) -> Path:
    """The tree of the commit before. Skips where there is none that can be built here, or where what runs are written
    in has changed since."""
    archive, commit = tmp_path / "before.tar", commit_before()
    if subprocess.run([*GIT, "archive", "-o", archive, commit], capture_output=True, check=False).returncode != 0:
        pytest.skip(f"there is no {commit} here: a clone with its history has one, {CHOSEN} names another")
    if run([*GIT, "diff", "--name-only", commit, "HEAD", "--", CONTRACT]):
        pytest.skip(f"{CONTRACT} changed since {commit}: CHANGELOG.md says whether runs of before go on")
    tree = tmp_path / "before"
    with tarfile.open(archive) as packed:
        packed.extractall(tree, filter="data")
    takes = set(re.findall(r"^ARG (\w+)", (tree / "docker" / "Dockerfile").read_text(), re.MULTILINE))
    if not project.build_arguments.keys() <= takes:
        pytest.skip(f"{commit} cannot be built here: its Dockerfile takes only {sorted(takes)}")
    return tree


def test_a_run_of_the_commit_before_goes_on_under_these_images(project: Project, before: Path) -> None:
    project.set({"OPCOD_SET_RUN__STEPS_PER_ROUND": str(STEPS)})
    with project.of_tree(before):
        project.build()
        project.begin("upgraded")
        project.until_step(1)
        project.compose("stop")
    first = {service: project.container(service)["Image"] for service in SERVICES}
    project.build()
    project.up()
    assert not [service for service in SERVICES if project.container(service)["Image"] == first[service]]
    assert project.until_done().steps == {"a": STEPS, "b": STEPS}
    for student in "ab":
        assert_applied_once(project.run_dir(), student, STEPS)
