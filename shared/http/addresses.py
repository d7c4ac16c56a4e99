"""Where a service listens and how it is named: URLs, listening sockets, what a Host header says.

What always holds: an IPv6 address stands in brackets wherever a port may follow it.
"""

import errno
import os
import re
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address

from shared.errors import ConfigError

LOOPBACK = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}
"""Where to reach on this machine what listens on all addresses: those are for listening, not for connecting."""

_PLACE = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{0,5}))?")


def place(host: str, port: int) -> str:
    """`host:port` as it stands in a URL and in a Host header."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def http_url(host: str, port: int) -> str:
    """Where a service that listens on `host` is reached."""
    return f"http://{place(LOOPBACK.get(host, host), port)}"


def split_place(text: str) -> tuple[str, int | None] | None:
    """Host, in small letters and without brackets, and port of a Host header; None if it is not one."""
    match = _PLACE.fullmatch(text)
    if match is None:
        return None
    return match[1].strip("[]").lower(), int(match[2]) if match[2] else None


def is_loopback(host: str) -> bool:
    """Whether who listens there is reached from this machine only."""
    address = _address(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


def needs_dns(host: str) -> bool:
    """Whether `host` is a name that somebody's DNS server answers for: addresses and localhost are what they say."""
    name = host.lower().rstrip(".")
    # Names below localhost never leave the machine (RFC 6761).
    return _address(name) is None and name != "localhost" and not name.endswith(".localhost")


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises ConfigError naming host, port and the reason."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        known = error.errno is not None and error.errno in errno.errorcode  # not so for an unknown host
        reason = os.strerror(error.errno or 0) if known else error.strerror
        other = "port" if known and error.errno != errno.EADDRNOTAVAIL else "host"
        raise ConfigError(f"cannot listen on {place(host, port)}: {reason}; choose another {other}") from error


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None
