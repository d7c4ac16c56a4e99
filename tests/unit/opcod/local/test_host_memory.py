"""The memory that a run may have, by the files in which Linux says so."""

from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from opcod.local.host_memory import memory_here

MIB = 1 << 20
V1, V2 = "sys/fs/cgroup/memory", "sys/fs/cgroup"
TOTAL = psutil.virtual_memory().total


@pytest.mark.parametrize(
    ("own", "limits", "found"),
    [
        ("0::/job/step\n", {f"{V2}/job/step/memory.max": 9 * MIB, f"{V2}/job/memory.max": 8 * MIB}, 8 * MIB),
        ("0::/job\n", {f"{V2}/job/memory.max": "max"}, TOTAL),
        ("0::/\n", {f"{V2}/memory.max": 8 * MIB}, 8 * MIB),
        ("5:cpu:/\n4:memory:/job/x\n0::/\n", {f"{V1}/job/memory.limit_in_bytes": 8 * MIB}, 8 * MIB),
        # A container that is told its host's path, and sees its own part alone.
        ("4:hugetlb,memory:/docker/1f\n", {f"{V1}/memory.limit_in_bytes": 8 * MIB}, 8 * MIB),
        ("4:memory:/\n", {f"{V1}/memory.limit_in_bytes": 9223372036854771712}, TOTAL),
        ("0::/job\n", {f"{V2}/other/memory.max": 8 * MIB, "memory.max": 8 * MIB}, TOTAL),
        (None, {}, TOTAL),
    ],
)
def test_the_least_limit_up_the_hierarchy_holds(
    tmp_path: Path, own: str | None, limits: Mapping[str, int | str], found: int
) -> None:
    written = {file: f"{limit}\n" for file, limit in limits.items()} | ({"proc/self/cgroup": own} if own else {})
    for file, text in written.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    assert memory_here(tmp_path) == found
