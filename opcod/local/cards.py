"""How much memory GPUs have: those that are here, and those that a plan is asked for."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping

from opcod.local.gpus import visible
from shared.errors import ConfigError, UnavailableError, shown
from shared.gpus import LOOK_TIMEOUT_S, gpus_here

_MIB = 1 << 20
_QUERY = ("--query-gpu=index,uuid,memory.total", "--format=csv,noheader,nounits")
_GIVEN = re.compile(r"([1-9][0-9]{0,3})x([0-9]{1,4}(?:\.[0-9]{1,3})?)")


def card_sizes(environ: Mapping[str, str] = os.environ) -> tuple[int, ...] | None:
    """Bytes of each GPU that we may use, in the order of `gpus_here`; None where nvidia-smi does not tell.

    Raises UnavailableError where nvidia-smi is there but does not answer.
    """
    count = gpus_here(environ)
    if count == 0:
        return ()
    if shutil.which("nvidia-smi") is None:
        return None
    try:
        done = subprocess.run(
            ["nvidia-smi", *_QUERY], capture_output=True, text=True, timeout=LOOK_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"nvidia-smi does not answer within {LOOK_TIMEOUT_S:.0f} s") from error
    found = [_of(name, done.stdout) for name in visible(tuple(range(count)), environ).split(",")]
    known = tuple(size for size in found if size is not None)
    # A part of a GPU (MIG) is in no list of whole ones, and some have no memory of their own.
    return known if len(known) == count else None


def given_sizes(text: str) -> tuple[int, ...]:
    """Bytes of each of the cards that `2x80` or `2x80,1x24` names, in GB. Raises ConfigError."""
    sizes: list[int] = []
    for part in text.split(","):
        match = _GIVEN.fullmatch(part.strip())
        if match is None or float(match[2]) == 0:
            raise ConfigError(
                f"--gpus: expected how many cards and the GB of each, such as 2x80 or 2x80,1x24, got {shown(text)}"
            )
        # Of a thousand million bytes: no card has less than the figure that it is sold under.
        sizes += [round(float(match[2]) * 1e9)] * int(match[1])
    return tuple(sizes)


def _of(name: str, listed: str) -> int | None:
    """Bytes of the GPU of that index or UUID, which may be cut short, in what nvidia-smi said."""
    for line in listed.splitlines():
        index, _, rest = line.partition(",")
        uuid, _, mib = rest.partition(",")
        if mib.strip().isdecimal() and (name == index.strip() or (len(name) > 4 and uuid.strip().startswith(name))):
            return int(mib) * _MIB
    return None
