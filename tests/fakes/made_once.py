"""What all workers of a session share: the first that asks makes it, and the others wait."""

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest


def made_once(
    tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], dict[str, str]]
) -> dict[str, str]:
    """What `make` returns, in a directory that is its own. Where it fails the next one tries again."""
    own = tmp_path_factory.getbasetemp()
    session = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    made = session / f"{name}.json"
    with (session / f"{name}.lock").open("w") as lock:
        # Waited for as long as the test that asks may take; whoever holds it lets go of it by ending.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            made.write_text(json.dumps(make(tmp_path_factory.mktemp(name))))
    found: dict[str, str] = json.loads(made.read_text())
    return found
