"""The Makefile takes directories as people have them."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("target", "variables", "expected"),
    [
        ("run", {"OPCOD_CACHE_DIR": "/my cache"}, ["--cache-dir", "/my cache"]),
        ("smoke", {"OPCOD_CACHE_DIR": "", "HOME": "/my home"}, ["--cache-dir", "/my home/.cache/opcod"]),
        ("test", {"OPCOD_CACHE_DIR": "/my cache"}, ["OPCOD_CACHE_DIR=/my cache"]),
        (
            "gpu-check",
            {"MODEL": "/my m", "PROBLEMS": "/my p"},
            ["--model", "/my m", "--problems", "/my p"],
        ),
    ],
)
def test_a_directory_with_a_blank_is_one_word(target: str, variables: dict[str, str], expected: list[str]) -> None:
    done = subprocess.run(
        ["make", "--dry-run", "--silent", target],
        cwd=ROOT,
        env={**os.environ, **variables},
        check=True,
        capture_output=True,
        text=True,
    )
    words = shlex.split(done.stdout, comments=True)
    assert any(words[start : start + len(expected)] == expected for start in range(len(words)))
