"""The task for SkyPilot fits its schema, and starts on each node what is to be there."""

import json
import os
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml

from tests.deploy.deployed import ROOT

TASK = yaml.safe_load((ROOT / "docs" / "skypilot.yaml").read_text())
SCHEMA = json.loads((Path(__file__).parent / "schemas" / "SkyPilot.json").read_text())


def test_it_fits_the_schema_and_a_mistake_is_seen() -> None:
    jsonschema.validate(TASK, SCHEMA)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**TASK, "nodes": 2}, SCHEMA)


@pytest.mark.parametrize(
    ("rank", "begun", "said"),
    [
        ("0", False, "run --run pair --preset phys-chem --set resources.nodes=2"),
        ("0", True, "run --resume pair"),
        ("1", False, "join pair"),
    ],
)
def test_each_node_starts_its_part(tmp_path: Path, rank: str, begun: bool, said: str) -> None:
    opcod = tmp_path / ".venv" / "bin" / "opcod"
    opcod.parent.mkdir(parents=True)
    opcod.write_text('#!/bin/sh\necho "$OPCOD_NODE_RANK $OPCOD_RENDEZVOUS $*"\n')
    opcod.chmod(0o755)
    script = TASK["run"].replace("/mnt/opcod", str(tmp_path))
    if begun:
        (tmp_path / "runs" / "pair").mkdir(parents=True)
        (tmp_path / "runs" / "pair" / "config.toml").touch()
    told = {"SKYPILOT_NODE_RANK": rank, "SKYPILOT_NODE_IPS": "10.0.0.5\n10.0.0.6", "SKYPILOT_NUM_NODES": "2"}
    environment = {"PATH": os.environ["PATH"], **TASK["envs"], **told}
    done = subprocess.check_output(["bash", "-c", script], cwd=tmp_path, env=environment, text=True, timeout=30)
    assert done == f"{rank} 10.0.0.5 {said}\n"
