"""A network of ends around one node, each in a network namespace, and who of them gets through to whom.

`python -m tests.deploy.namespaces` reads a plan (JSON) from stdin and writes what came of each connection to stdout. It
is to be started by `unshare --user --map-root-user --net --mount`: then it is root over namespaces of its own and over
nothing else, and all of it is gone when the process ends, whatever ends it. It refuses to start in the namespace that
it was called from.

Everybody listens on every port that is tried. So who does not get through was refused by a rule.
"""

import ctypes
import errno
import json
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LIMIT_S = 120
"""For all of it."""

ANSWERED_S = 5.0
NODE = "169.254.1.1"
CLONE_NEWNET = 0x40000000
OUTCOMES = {0: "open", errno.EHOSTUNREACH: "refused"}
SYSCTL = Path("/proc/sys/net/ipv4")
OWN = Path("/proc/self/ns/net")

Attempt = tuple[str, str, str, int]
"""Who connects to whom, by which protocol, to which port."""


def main() -> None:
    signal.alarm(LIMIT_S)
    plan = json.load(sys.stdin)
    if str(OWN.readlink()) == plan["called_from"]:
        sys.exit(
            "expected to be in a network namespace of its own: start it with `unshare --user --map-root-user --net`"
        )
    addresses: dict[str, str] = plan["addresses"]
    ports = [(protocol, port) for protocol, port in plan["ports"]]
    network = Network(addresses)
    network.build()
    if plan["rules"]:
        subprocess.run([plan["nft"], "-f", "-"], input=plan["rules"], text=True, check=True)
    listeners = [each for name in addresses for each in network.listen(name, ports)]
    outcomes = [
        (*attempt, outcome)
        for source in addresses
        for attempt, outcome in network.attempts(source, ports, listeners).items()
    ]
    json.dump(outcomes, sys.stdout)


class Network:
    """addresses: of the ends, by their names. A node forwards between them; ends have no other way to each other."""

    def __init__(self, addresses: dict[str, str]) -> None:
        self._addresses = addresses
        self._links = {name: f"end{number}" for number, name in enumerate(addresses)}

    def build(self) -> None:
        # Where `ip netns` keeps its names, seen by this process only.
        subprocess.run(["mount", "-t", "tmpfs", "none", "/run"], check=True)
        (SYSCTL / "ip_forward").write_text("1")
        # Refusals are told at once, every one of them.
        (SYSCTL / "icmp_ratemask").write_text("0")
        commands = ["link set lo up", f"address add {NODE}/32 dev lo"]
        for name, link in self._links.items():
            commands += [
                f"netns add {link}",
                f"link add {link} type veth peer name eth0 netns {link}",
                f"link set {link} up",
                f"route add {self._addresses[name]}/32 dev {link}",
            ]
        ip([], commands)
        for name, link in self._links.items():
            own = [f"address add {self._addresses[name]}/32 dev eth0", "link set lo up", "link set eth0 up"]
            ip(["-n", link], [*own, f"route add {NODE} dev eth0", f"route add default via {NODE}"])

    def listen(self, name: str, ports: list[tuple[str, int]]) -> list[socket.socket]:
        with self._inside(name):
            return [listener(protocol, port) for protocol, port in ports]

    def attempts(self, source: str, ports: list[tuple[str, int]], listeners: list[socket.socket]) -> dict[Attempt, str]:
        """What comes of a connection from `source` to everybody else on every port, all at once."""
        waiting = selectors.DefaultSelector()
        begun: set[Attempt] = set()
        outcomes: dict[Attempt, str] = {}
        for listening in listeners:
            if listening.type == socket.SOCK_DGRAM:
                waiting.register(listening, selectors.EVENT_READ)
        with self._inside(source):
            for target, address in self._addresses.items():
                for protocol, port in ports if target != source else ():
                    begun.add(attempt := (source, target, protocol, port))
                    events = selectors.EVENT_WRITE if protocol == "TCP" else selectors.EVENT_READ
                    waiting.register(connecting(protocol, address, port), events, attempt)
        deadline = time.monotonic() + ANSWERED_S
        while len(outcomes) < len(begun) and time.monotonic() < deadline:
            for key, _ in waiting.select(timeout=0.1):
                end = key.fileobj
                assert isinstance(end, socket.socket)
                if key.data is None:
                    end.sendto(*end.recvfrom(64))
                    continue
                outcomes[key.data] = outcome(end)
                waiting.unregister(end)
                end.close()
        return dict.fromkeys(begun, "silence") | outcomes

    @contextmanager
    def _inside(self, name: str) -> Iterator[None]:
        """Sockets that are made meanwhile are this end's."""
        with Path(f"/run/netns/{self._links[name]}").open() as there, OWN.open() as here:
            enter(there.fileno())
            try:
                yield
            finally:
                enter(here.fileno())


def ip(options: list[str], commands: list[str]) -> None:
    subprocess.run(["ip", *options, "-batch", "-"], input="\n".join(commands), text=True, check=True)


def enter(namespace: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.setns(namespace, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def listener(protocol: str, port: int) -> socket.socket:
    """Nobody accepts what comes: the kernel has answered by then."""
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM if protocol == "TCP" else socket.SOCK_DGRAM)
    made.bind(("", port))
    if protocol == "TCP":
        made.listen(128)
    return made


def connecting(protocol: str, address: str, port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM if protocol == "TCP" else socket.SOCK_DGRAM)
    made.setblocking(False)
    made.connect_ex((address, port))
    if protocol == "UDP":
        made.send(b"?")
    return made


def outcome(end: socket.socket) -> str:
    code = end.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return OUTCOMES.get(code, errno.errorcode.get(code, str(code)))


if __name__ == "__main__":
    main()
