"""The task for SkyPilot fits its schema, and starts on each node what is to be there."""

import json
import os
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml

from opcod.prepare.checks import check_engines
from shared.config.loading import load_settings
from tests.deploy.deployed import ROOT, compose

TASK = yaml.safe_load((ROOT / "docs" / "skypilot.yaml").read_text())
CHOSEN = ("problems.source=sciknoweval:/mnt/opcod/sciknoweval", "resources.nodes=2")
SCHEMA = json.loads((Path(__file__).parent / "schemas" / "SkyPilot.json").read_text())


def test_it_fits_the_schema_and_a_mistake_is_seen() -> None:
    jsonschema.validate(TASK, SCHEMA)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**TASK, "nodes": 2}, SCHEMA)


@pytest.mark.parametrize(
    ("rank", "begun", "said"),
    [
        ("0", False, f"run --run pair --preset phys-chem {' '.join(f'--set {each}' for each in CHOSEN)}"),
        ("0", True, "run --resume pair"),
        ("1", False, "join pair"),
    ],
)
def test_each_node_starts_its_part(tmp_path: Path, rank: str, begun: bool, said: str) -> None:
    opcod = tmp_path / ".venv" / "bin" / "opcod"
    opcod.parent.mkdir(parents=True)
    opcod.write_text('#!/bin/sh\necho "$OPCOD_NODE_RANK $OPCOD_RENDEZVOUS $*"\n')
    opcod.chmod(0o755)
    script = TASK["run"].replace("/mnt/opcod/", f"{tmp_path}/")
    if begun:
        (tmp_path / "runs" / "pair").mkdir(parents=True)
        (tmp_path / "runs" / "pair" / "config.toml").touch()
    told = {"SKYPILOT_NODE_RANK": rank, "SKYPILOT_NODE_IPS": "10.0.0.5\n10.0.0.6", "SKYPILOT_NUM_NODES": "2"}
    environment = {"PATH": os.environ["PATH"], **TASK["envs"], **told}
    done = subprocess.check_output(["bash", "-c", script], cwd=tmp_path, env=environment, text=True, timeout=30)
    assert done == f"{rank} 10.0.0.5 {said}\n"


def test_what_setup_makes_is_what_the_preset_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the GPUs that the task asks for. vLLM itself is a stand-in, with the version of the image for GPUs."""
    (version,) = {
        service["image"].rpartition(":v")[2]
        for name, service in compose("gpu")["services"].items()
        if name.startswith("vllm")
    }
    made = subprocess.check_output(["make", "-nB", *TASK["setup"].split()[1:]], cwd=ROOT, text=True, timeout=30)
    assert f"-m venv --clear .venv-vllm\n.venv-vllm/bin/pip install -q vllm=={version}\n" in made
    python = tmp_path / ".venv-vllm" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\necho vllm {version}\n")
    python.chmod(0o755)
    monkeypatch.setattr("shared.vllm.PROJECT", tmp_path)
    count = int(TASK["resources"]["accelerators"].partition(":")[2])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count))))
    check_engines(load_settings(preset=TASK["envs"]["PRESET"], overrides=CHOSEN, environ={}))
