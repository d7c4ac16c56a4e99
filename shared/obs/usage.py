"""What a service uses of its machine, for its heartbeat: cores and memory of its processes, and of its GPUs.

What always holds: whatever cannot be told is left out, and costs no heartbeat.
"""

import os
from collections.abc import Iterator
from contextlib import suppress

import psutil

from shared.clock import Clock, SystemClock
from shared.contracts.heartbeats import MachineUsage
from shared.errors import ConfigError, UnavailableError
from shared.gpus import GpuReader, NvmlReader

CHILDREN_S = 15.0
"""How long a list of a process's children serves: making one reads every process of the machine."""


class UsageMeter:
    """Of the process `root` and all that it has started; this one unless told otherwise. gpus: that they may use."""

    def __init__(self, root: int | None = None, gpus: GpuReader | None = None, *, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._root = psutil.Process(root)
        self._gpus = gpus
        # When, and how much of the processor it had used by then: at the last reading, and at the last one with a new
        # list of children. At first the mean of all its life.
        began = self._clock.monotonic_s() - (self._clock.wall_s() - self._root.create_time())
        self._read = self._listed = (began, 0.0)
        self._children: list[psutil.Process] | None = None

    def read(self) -> MachineUsage | None:
        """None where nothing is told, as of a process that has ended."""
        now_s = self._clock.monotonic_s()  # wall time is set back and forth
        anew = self._children is None or now_s - self._listed[0] >= CHILDREN_S
        try:
            cpu_s, resident = map(sum, zip(*_told([self._root, *self._started(anew=anew)]), strict=True))
        except (psutil.Error, ValueError):
            return None
        # A child that is listed for the first time brings all that it used since the last list.
        since_s, used_s = self._listed if anew else self._read
        cores = (cpu_s - used_s) / max(now_s - since_s, 1e-3)
        self._read = now_s, cpu_s
        if anew:
            self._listed = self._read
        busy, held = self._gpu_usage()
        # What a child had used is gone where nobody waited for it.
        return MachineUsage(cores=max(cores, 0.0), bytes=int(resident), gpus=busy, gpu_bytes=held)

    def _started(self, *, anew: bool) -> list[psutil.Process]:
        """All that it had started at most CHILDREN_S ago, and is there. Raises psutil.Error once the root is gone."""
        if not self._root.is_running():
            raise psutil.NoSuchProcess(self._root.pid)
        if anew or self._children is None:
            self._children = self._root.children(recursive=True)
        # Also no other process that has the number of one that ended.
        return [child for child in self._children if child.is_running()]

    def _gpu_usage(self) -> tuple[float | None, int | None]:
        try:
            cards = self._gpus.read() if self._gpus is not None else []
        except UnavailableError:  # a driver that is busy for a moment
            cards = []
        busy = [card.busy for card in cards if card.busy is not None]
        return (sum(busy) if busy else None), (sum(card.used for card in cards) if cards else None)


def gpus_given(process: int | None = None) -> GpuReader | None:
    """The GPUs that a process was started with, this one unless told otherwise; None where they cannot be asked."""
    with suppress(ConfigError, UnavailableError, psutil.Error):
        # Not our own environment where another process started this one: that may name fewer to each.
        return NvmlReader(os.environ if process is None else psutil.Process(process).environ())
    return None


def _told(processes: list[psutil.Process]) -> Iterator[tuple[float, int]]:
    """(seconds of processor time, of children that have ended too, and resident bytes) of each that is still there."""
    for process in processes:
        with suppress(psutil.Error), process.oneshot():
            times = process.cpu_times()
            seconds = times.user + times.system + times.children_user + times.children_system
            yield seconds, process.memory_info().rss
