"""A run that the images of the commit before have begun goes on under these."""

import re
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.containers.engine import run
from tests.containers.project import Project
from tests.deploy.deployed import ROOT
from tests.fakes.deployment import assert_applied_once

BEFORE = "HEAD~1"
STEPS = 3
CONTRACT = "tests/contract/golden"


@pytest.fixture
def before(project: Project, tmp_path: Path) -> Path:
    """The tree of the commit before. Skips where there is none that can be built here, or where what runs are written
    in has changed since."""
    archive = tmp_path / "before.tar"
    git = ["git", "-C", str(ROOT)]
    if subprocess.run([*git, "archive", "-o", archive, BEFORE], capture_output=True, check=False).returncode != 0:
        pytest.skip(f"there is no {BEFORE} here: a clone with its history has one")
    if run([*git, "diff", "--name-only", BEFORE, "HEAD", "--", CONTRACT]):
        pytest.skip(f"{CONTRACT} changed since {BEFORE}: CHANGELOG.md says whether runs of before go on")
    tree = tmp_path / "before"
    with tarfile.open(archive) as packed:
        packed.extractall(tree, filter="data")
    takes = set(re.findall(r"^ARG (\w+)", (tree / "docker" / "Dockerfile").read_text(), re.MULTILINE))
    if not project.build_arguments.keys() <= takes:
        pytest.skip(f"{BEFORE} cannot be built here: its Dockerfile takes only {sorted(takes)}")
    return tree


def test_a_run_of_the_commit_before_goes_on_under_these_images(project: Project, before: Path) -> None:
    project.set({"OPCOD_SET_RUN__STEPS_PER_ROUND": str(STEPS)})
    with project.of_tree(before):
        project.build()
        project.begin("upgraded")
        project.until_step(1)
        project.compose("stop")
    project.build()
    project.up()
    assert project.until_done().steps == {"a": STEPS, "b": STEPS}
    for student in "ab":
        assert_applied_once(project.run_dir(), student, STEPS)
