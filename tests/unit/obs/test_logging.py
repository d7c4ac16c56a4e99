"""Log lines: text of any kind is written, and one that cannot be written costs nobody anything."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

LOGS = """
import structlog
from shared.obs.logging import configure_logging
configure_logging(json=True, service="s")
for number in range(3):
    structlog.get_logger().info("Zürich \\ud800", number=number)
print("done")
"""

FULL = Path("/dev/full")


def test_every_line_is_written(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        subprocess.run([sys.executable, "-c", LOGS], stderr=log, check=True, stdout=subprocess.DEVNULL)
    lines = [json.loads(line) for line in (tmp_path / "log").read_text(encoding="utf-8").splitlines()]
    assert [(line["number"], line["service"]) for line in lines] == [(0, "s"), (1, "s"), (2, "s")]


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here, as Linux has it")
def test_a_log_on_a_full_disk_loses_its_lines_and_nothing_else() -> None:
    with FULL.open("wb") as full:
        done = subprocess.run([sys.executable, "-c", LOGS], stderr=full, stdout=subprocess.PIPE, check=False)
    assert (done.returncode, done.stdout) == (0, b"done\n")
