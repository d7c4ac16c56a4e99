"""Which services of a run are on which of its nodes, and how those that a launcher starts on each find the others.

Nodes share the run's directory. In it node 0 says where its Redis is (`meeting.json`), and each other one at which
address it is reached, and to whose meeting it came (`nodes/1`).

What always holds: a meeting is there as long as its launcher wants it to be, or until another one takes the run, and a
node's address until all that was started on it has ended. Of a process that was killed either stays: so an address
counts for its own meeting only, and a meeting that is replaced has not ended the run.
"""

import ipaddress
import socket
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from opcod.local.names import student_services
from shared.config.settings import RunSettings
from shared.errors import ConfigError, UnavailableError, reason, shown
from shared.files.durable import atomic_write

MEETING_FILE = "meeting.json"
ADDRESSES = "nodes"
DEFAULT_PORT = 29400
"""What torch's launchers use."""

PORTS = 65536  # of TCP, the first of which nobody has

JOIN_TIMEOUT_S = 900.0
"""That nodes have to come, each after the one before: they are started by hand, or by a batch system all at once."""


class Meeting(BaseModel):
    """What the other nodes need to know of the first. id: of this life of its launcher. port: of the first trainer's
    rendezvous, those of the next ones follow."""

    model_config = ConfigDict(extra="forbid")

    id: str
    address: str
    port: int
    redis_url: str
    redis_password_file: Path | None
    key_file: Path

    def save(self, run_dir: Path) -> None:
        atomic_write(run_dir / MEETING_FILE, self.model_dump_json(indent=1).encode())


def read_meeting(run_dir: Path) -> Meeting | None:
    """What node 0 says, if it is up, or was when it was killed. Raises UnavailableError where that cannot be read."""
    file = run_dir / MEETING_FILE
    try:
        return Meeting.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise UnavailableError(f"expected to read {file}, by which node 0 is met: {reason(error)}") from error


def placement(settings: RunSettings) -> dict[str, tuple[int, ...]]:
    """Nodes of each service that has a model. Raises ConfigError where they cannot be there."""
    services = [*student_services(settings), *(f"trainer-{name}" for name in settings.names)]
    nodes, chosen = settings.resources.nodes, settings.resources.placement
    if chosen is None:
        chosen = {service: (number % nodes,) for number, service in enumerate(services)}
    if chosen.keys() != set(services):
        raise ConfigError(f"resources.placement: expected nodes of {', '.join(services)}, got {', '.join(chosen)}")
    for service, on in chosen.items():
        if service.startswith("student") and len(on) > 1:
            raise ConfigError(
                f"resources.placement: {service} = {list(on)}: expected one node; only ranks have several"
            )
        if service.startswith("trainer") and settings.trainer.ranks % len(on):
            raise ConfigError(
                f"resources.placement: {service} = {list(on)}: expected trainer.ranks to be a multiple of {len(on)}, "
                f"as each node has equally many, got {settings.trainer.ranks}"
            )
    if idle := set(range(1, nodes)) - {node for on in chosen.values() for node in on}:
        raise ConfigError(
            f"resources.nodes: expected something to do on each of {nodes} nodes, nothing is on {sorted(idle)}: lower "
            "it, or name the nodes of trainers of several ranks in resources.placement"
        )
    return {service: chosen[service] for service in services}


def on_one_node(settings: RunSettings) -> RunSettings:
    """Of what is done on the first machine alone: nobody is elsewhere, and a trainer is one rank."""
    if settings.resources.nodes == 1:
        return settings
    resources = settings.resources.model_copy(update={"nodes": 1, "placement": None, "gpus": None})
    trainer = settings.trainer.model_copy(update={"ranks": 1})
    return settings.model_copy(update={"resources": resources, "trainer": trainer})


def rendezvous_of(text: str | None, settings: RunSettings) -> tuple[str, int]:
    """Host and first port in `host` or `host:port`. Raises ConfigError, also where trainers need ports that there are
    not."""
    host, _, port = (text or "").partition(":")
    if not host or (port and not (port.isdecimal() and 0 < int(port) < PORTS)):
        raise ConfigError(
            f"--rendezvous: expected host or host:port at which the other nodes reach this one, as resources.nodes = "
            f"{settings.resources.nodes}, got {shown(text)}"
        )
    first, needed = int(port or DEFAULT_PORT), len(_spread(settings))
    if first + needed > PORTS:
        raise ConfigError(
            f"--rendezvous: expected a port of at most {PORTS - needed}, as {needed} trainers on several nodes have it "
            f"and the next ones, got {first}"
        )
    return host, first


def own_address(host: str) -> str:
    """The IPv4 address of this machine that `host` names. Raises ConfigError where other nodes would not find it, and
    where it is another machine's."""
    try:
        found = socket.gethostbyname(host)
    except OSError as error:
        raise ConfigError(
            f"--rendezvous: expected a name or IPv4 address of this machine, got {host}: {error}"
        ) from error
    # Debian's /etc/hosts has a machine's own name lead there.
    if ipaddress.ip_address(found).is_loopback and not host.startswith("127.") and host != "localhost":
        raise ConfigError(
            f"--rendezvous: {host} is {found} on this machine, where no other one reaches it: name its address instead"
        )
    try:
        with socket.socket() as probe:
            # As what is started here will listen, at a port that nobody has.
            probe.bind((found, 0))
    except OSError as error:
        raise ConfigError(
            f"--rendezvous: expected an address of this machine, which node 0 is, got {host}, that is {found}: {error}"
        ) from error
    return found


def address_file(run_dir: Path, node: int) -> Path:
    return run_dir / ADDRESSES / str(node)


def write_address(run_dir: Path, node: int, meeting: Meeting, address: str) -> None:
    atomic_write(address_file(run_dir, node), f"{meeting.id} {address}".encode())


def read_address(run_dir: Path, node: int, meeting: Meeting) -> str | None:
    """Where `node` is reached, once it has come to that meeting."""
    try:
        came_to, _, address = address_file(run_dir, node).read_text(encoding="utf-8").partition(" ")
    except OSError:
        return None
    return address if came_to == meeting.id else None


def _spread(settings: RunSettings) -> dict[str, tuple[int, ...]]:
    """Nodes of the trainers on several, each of which needs a port for its rendezvous, in the order of the ports."""
    return {service: on for service, on in placement(settings).items() if len(on) > 1}


def absent(run_dir: Path, nodes: Iterable[int], meeting: Meeting) -> str | None:
    """Those of `nodes` that have not come, in words."""
    missing = [str(node) for node in nodes if read_address(run_dir, node, meeting) is None]
    return f"not joined: node {', '.join(missing)} (`opcod join {run_dir.name}`)" if missing else None


def groups_of(settings: RunSettings, node: int, meeting: Meeting, run_dir: Path) -> dict[str, dict[str, str]]:
    """Variables of the trainers that have ranks on `node` and on others, by service, once those have come.

    Raises ConfigError where the first node of one has not.
    """
    found: dict[str, dict[str, str]] = {}
    for number, (service, on) in enumerate(_spread(settings).items()):
        if node not in on:
            continue
        first = meeting.address if on[0] == 0 else read_address(run_dir, on[0], meeting)
        if first is None:
            raise ConfigError(
                f"expected node {on[0]}, where {service} begins, to have joined before node {node} starts"
            )
        found[service] = {
            "OPCOD_NODES": str(len(on)),
            "OPCOD_NODE_RANK": str(on.index(node)),
            "OPCOD_RENDEZVOUS": f"{first}:{meeting.port + number}",
        }
    return found
