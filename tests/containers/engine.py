"""A Docker engine: the one that answers, or one of our own, which lives in a directory and leaves nothing behind.

One of our own needs root and Debian: its packages are installed, and the daemon is started by hand, without systemd.
Whatever it mounts lies in a namespace of its own and is gone with it; when it ends, so do its containers, and links and
packet filter rules are as they were before.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

PACKAGES = {"dockerd": "docker.io", "docker": "docker.io", "iptables": "iptables", "ip": "iproute2"}
"""What provides which program of an engine of our own."""

WITHIN_S = 120.0
"""An engine that takes longer to be had is none."""

STOPPED_S = 180
GENTLE = ("nice", "-n", "10")
"""Learning on the same machine goes first."""

LINKS = Path("/sys/class/net")
FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
TABLES = {
    "filter": ":INPUT ACCEPT\n:FORWARD ACCEPT\n:OUTPUT ACCEPT",
    "nat": ":PREROUTING ACCEPT\n:INPUT ACCEPT\n:OUTPUT ACCEPT\n:POSTROUTING ACCEPT",
}
"""The packet filter's tables that an engine writes to, as they are when nobody has."""


DISK_BYTES = 16 * 2**30
"""Of an engine of our own, in one sparse file: that is removed in a moment, a hundred thousand files in minutes."""

STARTING = """\
mkfs.ext4 -q -O ^has_journal "$1" && mount -o loop "$1" "$2" || echo "data lie in the directory itself"
shift 2
exec "$@"
"""


class NoEngineError(Exception):
    """Why there is none, and what would bring one."""


@dataclass(frozen=True)
class Engine:
    """own: started by us, with nothing in its store. host: for DOCKER_HOST, None where the client's default serves.
    root: where its files are seen from here."""

    host: str | None
    own: bool
    root: Path = Path("/")

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | ({} if self.host is None else {"DOCKER_HOST": self.host})

    def answers(self) -> bool:
        asked = ["docker", "info", "--format", "{{.ServerVersion}}"]
        done = subprocess.run(asked, env=self.environment, capture_output=True, timeout=60, check=False)
        return done.returncode == 0 and bool(done.stdout.strip())

    def docker(self, *arguments: str, timeout_s: float = 120) -> str:
        """What the client wrote to stdout. Fails the test with what it wrote to stderr."""
        return run([*GENTLE, "docker", *arguments], self.environment, timeout_s)


def run(command: list[str], environment: Mapping[str, str] | None = None, timeout_s: float = 120) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-3000:]}"
    return done.stdout


@contextmanager
def engine() -> Iterator[Engine]:
    """Raises NoEngineError."""
    there = Engine(None, own=False)
    if shutil.which("docker") and there.answers():
        yield there
        return
    install()
    with ended_in_order(), scratch() as root, own_engine(root) as own:
        yield own


@contextmanager
def ended_in_order() -> Iterator[None]:
    """SIGTERM is as Ctrl-C, once: what was begun in here is put back, and another one does not keep it from that."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.default_int_handler(number, frame)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def install() -> None:
    """What an engine of our own consists of, where something of it is missing."""
    missing = sorted({package for program, package in PACKAGES.items() if shutil.which(program) is None})
    if os.geteuid() != 0:
        raise NoEngineError("no Docker engine answers; one of our own needs root: start one, or set DOCKER_HOST")
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise NoEngineError(f"no Docker engine answers, and without apt-get {missing} are not installed: start one")
    for command in (["update", "-q"], ["install", "-y", "-q", "--no-install-recommends", *missing]):
        try:
            run(["apt-get", *command], os.environ | {"DEBIAN_FRONTEND": "noninteractive"}, WITHIN_S)
        except (AssertionError, subprocess.TimeoutExpired) as error:
            raise NoEngineError(f"no Docker engine answers, and {missing} cannot be installed: {error}") from error


@contextmanager
def own_engine(root: Path) -> Iterator[Engine]:
    """Its socket, data and log lie in `root`. Raises NoEngineError with the end of its log."""
    log, host = root / "dockerd.log", f"unix://{root}/docker.sock"
    with network_kept(), log.open("wb") as output:
        daemon = subprocess.Popen(daemon_command(root, host), stdout=output, stderr=output)
        own = Engine(host, own=True, root=Path(f"/proc/{daemon.pid}/root"))
        try:
            deadline = time.monotonic() + WITHIN_S
            while not own.answers():
                if daemon.poll() is not None or time.monotonic() > deadline:
                    raise NoEngineError(f"the Docker engine does not start: {log.read_text()[-2000:]}")
                time.sleep(0.2)
            yield own
        finally:
            daemon.terminate()
            daemon.wait(timeout=STOPPED_S)


def daemon_command(root: Path, host: str) -> list[str]:
    disk, data = root / "disk", root / "data"
    data.mkdir()
    with disk.open("wb") as file:
        file.truncate(DISK_BYTES)
    # It ends with this process, whatever ends that.
    begun = ["setpriv", "--pdeathsig", "TERM", *GENTLE, "unshare", "--mount"]
    begun += ["sh", "-c", STARTING, "sh", str(disk), str(data)]
    places = {"data-root": data, "exec-root": root / "exec", "pidfile": root / "docker.pid"}
    options = [f"--{option}={place}" for option, place in places.items()]
    return [*begun, "dockerd", "--host", host, "--storage-driver", "overlay2", f"--mtu={mtu()}", *options]


@dataclass(frozen=True)
class Network:
    """The host's own: what an engine changes in it."""

    rules: str
    forwarding: str
    links: frozenset[str]

    @classmethod
    def now(cls) -> "Network":
        return cls(run(["iptables-save"]), FORWARDING.read_text(), links())

    def restore(self) -> None:
        for link in links() - self.links:
            if link.startswith(("docker", "br-", "veth")):
                subprocess.run(["ip", "link", "delete", link], capture_output=True, check=False)
        FORWARDING.write_text(self.forwarding)
        # A table that is not named stays as the engine left it.
        unnamed = [f"*{table}\n{chains}\nCOMMIT\n" for table, chains in TABLES.items() if f"*{table}" not in self.rules]
        subprocess.run(["iptables-restore"], input=self.rules + "".join(unnamed), text=True, check=True)


@contextmanager
def network_kept() -> Iterator[None]:
    """It is afterwards as it was before."""
    network = Network.now()
    try:
        yield
    finally:
        network.restore()


def links() -> frozenset[str]:
    return frozenset(link.name for link in LINKS.iterdir())


def mtu() -> int:
    """The smallest of the machine's networks: packets of containers that are larger are lost without a word."""
    sizes = {link.name: int((link / "mtu").read_text()) for link in LINKS.iterdir()}
    return min([1500, *(size for name, size in sizes.items() if name.startswith(("e", "w")))])


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory that is removed with all in it, but never into another file system."""
    root = Path(tempfile.mkdtemp(prefix="opcod-containers-"))
    try:
        yield root
    finally:
        run(["rm", "-rf", "--one-file-system", str(root)], timeout_s=900)


def main() -> int:
    """Whether an engine can be had here, in one line."""
    began = time.monotonic()
    try:
        with engine() as found:
            version = found.docker("version", "--format", "{{.Server.Version}}").strip()
    except NoEngineError as error:
        sys.stdout.write(f"no container engine: {error}\n")
        return 1
    whose = "of our own" if found.own else "that is there"
    sys.stdout.write(f"container engine: {version}, {whose}, had in {time.monotonic() - began:.0f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
