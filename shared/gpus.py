"""Which NVIDIA GPUs this process was given, and what their driver says of itself and of them. Loads no torch.

What always holds: no GPU is told apart from a driver that cannot tell, so that nobody computes on a CPU by mistake.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, Protocol

from shared.errors import UnavailableError
from shared.installed import optional

VISIBLE = "CUDA_VISIBLE_DEVICES"
LOOK_TIMEOUT_S = 30.0

_PROGRAM = "nvidia-smi"
_BY_CONTAINER = "NVIDIA_VISIBLE_DEVICES"
# How the container toolkit is told that there are to be none.
_NOTHING = frozenset({"", "none", "void", "nodevfiles"})
_KERNEL_MODULE = Path("/proc/driver/nvidia/version")


def gpus_here(environ: Mapping[str, str] = os.environ) -> int:
    """How many GPUs we may use: those that CUDA_VISIBLE_DEVICES names, else what nvidia-smi lists.

    Raises UnavailableError where nvidia-smi is there but cannot tell.
    """
    # Before nvidia-smi, which lists all GPUs of the machine, whatever this process may use.
    if VISIBLE in environ:
        return len(named(environ))
    program = _program(environ)
    if program is None:
        return 0
    done = _asked(program, "-L")
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).replace("\n", " ")
        raise UnavailableError(
            f"expected the GPUs of this machine, `nvidia-smi -L` ended with exit code {done.returncode}: {said}; mend "
            f"the driver, or set {VISIBLE}= to use none"
        )
    return sum(line.startswith("GPU ") for line in done.stdout.splitlines())


def named(environ: Mapping[str, str]) -> list[str]:
    """What CUDA_VISIBLE_DEVICES names, up to the first negative index: there the list ends for CUDA, and -1 is how to
    name none."""
    names = [name.strip() for name in environ.get(VISIBLE, "").split(",") if name.strip()]
    return list(takewhile(lambda name: not name.startswith("-"), names))


def given(environ: Mapping[str, str] = os.environ) -> str | None:
    """What says that this process has GPUs, for people; None where nothing does. Raises UnavailableError."""
    if VISIBLE in environ:
        return f"{VISIBLE}={environ[VISIBLE]} gives one" if named(environ) else None
    # In a container nvidia-smi is there only where its toolkit put it, and that may have failed.
    if _BY_CONTAINER in environ:
        by_container = environ[_BY_CONTAINER]
        return None if by_container in _NOTHING else f"{_BY_CONTAINER}={by_container} gives one"
    listed = gpus_here(environ)
    return f"{_PROGRAM} lists {listed}" if listed else None


def driver(environ: Mapping[str, str] = os.environ) -> str:
    """The driver's version and the newest CUDA that it runs, as far as they are told, for people."""
    program = _program(environ)
    try:
        told = "" if program is None else _asked(program).stdout
    except UnavailableError:
        told = ""
    version = re.search(r"Driver Version:\s*([\d.]+)", told)
    newest = re.search(r"CUDA (?:\w+ )?Version:\s*([\d.]+)", told)
    if version is not None:
        return f"driver {version[1]} runs CUDA {newest[1] if newest else 'of an unknown version'} at most"
    if _KERNEL_MODULE.is_file():
        return f"the driver's CUDA is not known ({_KERNEL_MODULE.read_text(errors='replace').splitlines()[0]})"
    return "no driver of NVIDIA's is loaded"


def _program(environ: Mapping[str, str]) -> str | None:
    return shutil.which(_PROGRAM, path=environ.get("PATH"))


def _asked(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Raises UnavailableError where it does not run, or for too long."""
    try:
        return subprocess.run(
            [program, *arguments], capture_output=True, text=True, errors="replace", timeout=LOOK_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"{_PROGRAM} does not answer within {LOOK_TIMEOUT_S:.0f} s") from error
    except OSError as error:
        raise UnavailableError(
            f"{program} does not run: {error}; mend the driver, or set {VISIBLE}= to use no GPU"
        ) from error


@dataclass(frozen=True)
class CardReading:
    """One GPU at one moment, bytes. processes: by their ids; None where the driver does not tell them apart.

    busy: share of the driver's last moments, up to a second, in which something ran on it; None where it does not tell.
    """

    name: str
    bytes: int
    used: int
    processes: Mapping[int, int] | None
    busy: float | None = None


class GpuReader(Protocol):
    """The GPUs that this process may use, in the order in which services are given them."""

    def read(self) -> Sequence[CardReading]:
        """Raises UnavailableError where the driver does not tell."""


class NvmlReader:
    """NVIDIA's management library, which asks the driver and makes no use of the GPU itself."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        """Raises ConfigError where its package is missing, UnavailableError where the driver does not answer."""
        self._nvml: Any = optional("pynvml", "pip install -c constraints.txt -e '.[local]'")
        with self._told():
            self._nvml.nvmlInit()
            self._cards = [self._card(name) for name in self._names(environ)]

    def read(self) -> Sequence[CardReading]:
        with self._told():
            return [self._reading(card) for card in self._cards]

    def _names(self, environ: Mapping[str, str]) -> list[str]:
        if VISIBLE in environ:
            return named(environ)
        return [str(number) for number in range(self._nvml.nvmlDeviceGetCount())]

    def _card(self, name: str) -> Any:
        """Of an index, or a UUID."""
        if name.isdecimal():
            return self._nvml.nvmlDeviceGetHandleByIndex(int(name))
        return self._nvml.nvmlDeviceGetHandleByUUID(name)

    def _reading(self, card: Any) -> CardReading:
        name, memory = self._nvml.nvmlDeviceGetName(card), self._nvml.nvmlDeviceGetMemoryInfo(card)
        return CardReading(name, memory.total, memory.used, self._processes(card), self._busy(card))

    def _busy(self, card: Any) -> float | None:
        try:
            return float(self._nvml.nvmlDeviceGetUtilizationRates(card).gpu) / 100
        except self._nvml.NVMLError_NotSupported:  # of a part of a card, as by MIG
            return None

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
