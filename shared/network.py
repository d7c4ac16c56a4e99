"""By which of its addresses this machine reaches another one, and is reached from there."""

import socket

import psutil

from shared.errors import UnavailableError


def address_towards(host: str) -> str:
    """The IPv4 address of this machine that faces `host`. Raises UnavailableError where there is no way to it."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            # Sends nothing, to whatever port: the kernel only looks up the route.
            probe.connect((host, 9))
            return str(probe.getsockname()[0])
    except OSError as error:
        raise UnavailableError(f"expected a way from this node to {host}: {error}") from error


def interface_towards(host: str) -> str | None:
    """Name of the network interface with that address; None where none says so. Raises UnavailableError."""
    own = address_towards(host)
    names = (name for name, found in psutil.net_if_addrs().items() if own in [each.address for each in found])
    return next(names, None)
