"""A port to GPUs that are not there: what each process of ours holds of the machine's memory stands for a GPU's."""

from collections.abc import Sequence
from contextlib import suppress

import psutil

from shared.gpus import CardReading
from tests.fakes.forked import running

GB = 10**9
MODEL_SERVICES = ("services.student", "services.trainer")


class ResidentMemory:
    """One card of `size` bytes, on which are the students and trainers that this process forks from now on; what a
    process has resident is what it holds of the card."""

    def __init__(self, size: int = 24 * GB) -> None:
        self._size = size
        # Those of a fixture that serves several tests are no part of what is measured.
        self._others = frozenset(running())

    def read(self) -> Sequence[CardReading]:
        held: dict[int, int] = {}
        for pid, command in running().items():
            if pid not in self._others and command.split()[0] in MODEL_SERVICES:
                with suppress(psutil.NoSuchProcess):
                    held[pid] = psutil.Process(pid).memory_info().rss
        return [CardReading("Fake 24", self._size, GB + sum(held.values()), held)]
