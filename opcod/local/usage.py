"""How much of each GPU's memory the processes of a run hold, looked at again and again while it runs.

What always holds: a process counts for the service that has started it, however many lie between; what none has started
counts as others'. What the driver says comes through a port (`shared.gpus.GpuReader`); all that is made of it is pure.

A look a second misses no peak that matters: neither torch nor vLLM gives memory back to the driver before its process
ends, so the most that a process ever held is what it holds from then on.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import psutil

from shared.errors import UnavailableError
from shared.gpus import CardReading, GpuReader

OTHERS = "others"
"""Processes of no service of the run."""


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
