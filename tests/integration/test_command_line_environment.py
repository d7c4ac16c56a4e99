"""The command line where there is little: no home directory, a terminal that shows ASCII only, another locale."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPTED = ("--set", "students.a.engine=scripted", "--set", "students.b.engine=scripted")
NOBODY = 54321


AS_NOBODY = f"import os, runpy; os.setresuid({NOBODY}, 0, 0); runpy.run_module('opcod.main', run_name='__main__')"
"""Unknown to the system by its real user id, which is asked for a home, and still able to read the interpreter."""


def opcod(
    *arguments: str, how: tuple[str, ...] = ("-m", "opcod.main"), **environment: str | None
) -> subprocess.CompletedProcess[bytes]:
    """environment: on top of ours; None takes a variable out."""
    told = {name: value for name, value in {**os.environ, **environment}.items() if value is not None}
    return subprocess.run([sys.executable, *how, *arguments], env=told, capture_output=True, timeout=120, check=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user; run it as root")
def test_who_has_no_home_is_served_and_told_where_one_is_needed() -> None:
    homeless = {"HOME": None, "XDG_CACHE_HOME": None, "OPCOD_CACHE_DIR": None}
    asked = opcod("--help", how=("-c", AS_NOBODY), **homeless)
    assert asked.returncode == 0 and b"On-Policy Co-Distillation" in asked.stdout, asked.stderr
    refused = opcod("run", "--dry-run", "--preset", "smoke", *SCRIPTED, how=("-c", AS_NOBODY), **homeless)
    assert refused.returncode == 2
    said = refused.stderr.decode()
    assert said.startswith("error: ~/.cache/opcod: expected a directory, there is no home here"), said
    assert "--cache-dir" in said and len(said.splitlines()) == 1
    placed = opcod(
        "run",
        "--dry-run",
        "--preset",
        "smoke",
        *SCRIPTED,
        how=("-c", AS_NOBODY),
        **homeless | {"OPCOD_CACHE_DIR": "/var/cache/opcod"},
    )
    assert placed.returncode == 0, placed.stderr


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": None},
    ],
    ids=["ascii", "posix"],
)
def test_what_a_terminal_cannot_show_ends_no_command(tmp_path: Path, environment: dict[str, Any]) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('extends = "smoke"  # für Zürich\nstudents.a.model = "/東京"\n', encoding="utf-8")
    shown = opcod("run", "--dry-run", "--config", str(file), *SCRIPTED, **environment)
    assert shown.returncode == 0, shown.stderr
    assert rb'model = "/\u6771\u4eac"' in shown.stdout
    refused = opcod("run", "--dry-run", "--config", str(file), "--set", "gate.mode=東京", **environment)
    assert refused.returncode == 2 and b"Traceback" not in refused.stderr, refused.stderr
