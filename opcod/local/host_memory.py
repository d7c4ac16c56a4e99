"""How much of the host's memory this process may have: a container or a batch system often gives less than there is."""

from collections.abc import Iterator
from pathlib import Path

import psutil

# Where a process says which cgroup it is in, and by controller where cgroups are mounted: "" is version 2.
_OWN = "proc/self/cgroup"
_LIMITS = {
    "": ("sys/fs/cgroup", "memory.max"),
    "memory": ("sys/fs/cgroup/memory", "memory.limit_in_bytes"),
}


def memory_here(root: Path = Path("/")) -> int:
    """Bytes: of all that there is, or the least limit of the process's cgroup and those above it. root: for tests."""
    return min([psutil.virtual_memory().total, *_limits(root)])


def _limits(root: Path) -> Iterator[int]:
    try:
        lines = (root / _OWN).read_text().splitlines()
    except OSError:  # no Linux, or /proc is not mounted
        return
    for line in lines:
        _, controllers, own = line.split(":", 2)
        for controller in controllers.split(","):
            if controller in _LIMITS:
                place, file = _LIMITS[controller]
                yield from _limits_up(root / place, own, file)


def _limits_up(mount: Path, own: str, file: str) -> Iterator[int]:
    """Of the cgroup and all above it. Where the path is the host's and a container sees its own part alone, the mount
    itself is what the container was given."""
    cgroup = mount / own.lstrip("/")
    for each in (cgroup, *cgroup.parents):
        if not each.is_relative_to(mount):
            return
        try:
            text = (each / file).read_text().strip()
        except OSError:  # a root has no limit, and a path of the host's is not there
            continue
        if text.isdecimal():  # else "max"
            yield int(text)
