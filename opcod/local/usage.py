"""How much of each GPU's memory the processes of a run hold, looked at again and again while it runs.

What always holds: a process counts for the service that has started it, however many lie between; what none has started
counts as others'. What the driver says comes through a port (`GpuReader`), and all that is made of it is pure.

A look a second misses no peak that matters: neither torch nor vLLM gives memory back to the driver before its process
ends, so the most that a process ever held is what it holds from then on.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import psutil

from opcod.installed import optional
from shared.errors import UnavailableError
from shared.gpus import named

OTHERS = "others"
"""Processes of no service of the run."""


@dataclass(frozen=True)
class CardReading:
    """One GPU at one moment, bytes. processes: by their ids; None where the driver does not tell them apart."""

    name: str
    bytes: int
    used: int
    processes: Mapping[int, int] | None


class GpuReader(Protocol):
    """The GPUs that this process may use, in the order in which services are given them."""

    def read(self) -> Sequence[CardReading]:
        """Raises UnavailableError where the driver does not tell."""


@dataclass
class CardPeak:
    """The most that was seen of one GPU, bytes. before: used when nothing of the run was there. services: by service,
    empty where the driver told none apart."""

    name: str
    bytes: int
    before: int
    used: int
    services: dict[str, int] = field(default_factory=dict)


class Peaks:
    """first: the GPUs before the run."""

    def __init__(self, first: Sequence[CardReading]) -> None:
        self.cards = [CardPeak(card.name, card.bytes, card.used, card.used) for card in first]

    def see(self, cards: Sequence[CardReading], owners: Mapping[int, str]) -> None:
        """owners: the service of each process that one has started."""
        for peak, card in zip(self.cards, cards, strict=True):
            peak.used = max(peak.used, card.used)
            held: Counter[str] = Counter()
            for process, size in (card.processes or {}).items():
                held[owners.get(process, OTHERS)] += size
            for service, size in held.items():
                peak.services[service] = max(peak.services.get(service, 0), size)


def watching(reader: GpuReader) -> tuple[Peaks, Callable[[Mapping[str, int]], None]]:
    """What is to be seen, and what looks once, given the process of each service. Raises UnavailableError."""
    peaks = Peaks(reader.read())

    def look(services: Mapping[str, int]) -> None:
        # A driver that is busy for a moment ends no run.
        with suppress(UnavailableError):
            peaks.see(reader.read(), owners_of(services))

    return peaks, look


def owners_of(services: Mapping[str, int]) -> dict[int, str]:
    """The service of its own process and of all that it has started, by process id."""
    found: dict[int, str] = {}
    for service, process in services.items():
        with suppress(psutil.Error):  # it has just ended
            own = psutil.Process(process)
            found |= {each.pid: service for each in (own, *own.children(recursive=True))}
    return found


class NvmlReader:
    """NVIDIA's management library, which asks the driver and makes no use of the GPU itself."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        """Raises ConfigError where its package is missing, UnavailableError where the driver does not answer."""
        self._nvml: Any = optional("pynvml", "pip install -c constraints.txt -e '.[local]'")
        with self._told():
            self._nvml.nvmlInit()
            self._cards = [self._card(name) for name in named(environ) or self._every()]

    def read(self) -> Sequence[CardReading]:
        with self._told():
            return [self._reading(card) for card in self._cards]

    def _every(self) -> list[str]:
        return [str(number) for number in range(self._nvml.nvmlDeviceGetCount())]

    def _card(self, name: str) -> Any:
        """Of an index, or a UUID."""
        if name.isdecimal():
            return self._nvml.nvmlDeviceGetHandleByIndex(int(name))
        return self._nvml.nvmlDeviceGetHandleByUUID(name)

    def _reading(self, card: Any) -> CardReading:
        memory = self._nvml.nvmlDeviceGetMemoryInfo(card)
        return CardReading(self._nvml.nvmlDeviceGetName(card), memory.total, memory.used, self._processes(card))

    def _processes(self, card: Any) -> dict[int, int] | None:
        try:
            found = self._nvml.nvmlDeviceGetComputeRunningProcesses(card)
        except (self._nvml.NVMLError_NotSupported, self._nvml.NVMLError_NoPermission):
            return None
        # None of a process in another container, and of all of them on Windows.
        return {each.pid: each.usedGpuMemory for each in found if each.usedGpuMemory is not None}

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except self._nvml.NVMLError as error:
            raise UnavailableError(f"NVIDIA's management library does not tell of the GPUs here: {error}") from error
