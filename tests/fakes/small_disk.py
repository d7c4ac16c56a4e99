"""A file system that is soon full, for what happens to those who write to it."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted(place: Path, mebibytes: int) -> Iterator[Path]:
    """An empty one at `place`. Skips the test where mounting is not allowed."""
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "opcod-test", str(place)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no `mount` here; run it as root on Linux")
    if done.returncode:
        pytest.skip(f"a file system cannot be mounted here ({done.stderr.strip()}); run it as root on Linux")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
