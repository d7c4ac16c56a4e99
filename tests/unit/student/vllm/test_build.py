"""Where a server that a student starts puts its sockets."""

import shutil
import socket
import uuid
from pathlib import Path

import pytest

from services.student.engines.vllm.build import scratch_directory

LONGEST = 50
"""Of a directory for temporary files, in bytes, below which the server's own directory lies."""


@pytest.mark.parametrize("length", [LONGEST, LONGEST + 1, 150], ids=["usual", "too long", "of a batch system"])
def test_sockets_can_be_made_below_any_tmpdir(length: int) -> None:
    root = Path("/tmp") / uuid.uuid4().hex[:8]
    usual = root / ("x" * (length - len(f"{root}/")))
    usual.mkdir(parents=True)
    made = scratch_directory(str(usual))
    try:
        assert made.parent == (usual if length <= LONGEST else Path("/tmp"))
        assert made.stat().st_mode & 0o777 == 0o700
        for name in ("socket", str(uuid.uuid4())):
            with socket.socket(socket.AF_UNIX) as one:
                one.bind(str(made / name))
    finally:
        shutil.rmtree(made)
        shutil.rmtree(root, ignore_errors=True)
