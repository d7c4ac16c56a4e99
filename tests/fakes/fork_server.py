"""The process that services are forked from, as it has imported torch already: one for all workers of a session.

`python -m tests.fakes.fork_server <descriptor of a listening socket> <process id of its owner>`. Each connection is a
process: what it is to be and its streams come in, its id and then its exit code go out. Who hangs up has it killed.
"""

import gc
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from pathlib import Path

from shared.parents import end_with
from tests.fakes.forked import ADDRESS, Streams, Told, become

PRELOADED = ("peft", "tests.fakes.warmed")

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def fork_server() -> Iterator[None]:
    """One for this process and those that it starts, while in the block; it begins once somebody asks it."""
    # Not a test's directory, whose name may be too long for a socket.
    with tempfile.TemporaryDirectory(prefix="opcod-fork-") as name, socket.socket(socket.AF_UNIX) as listener:
        address = f"{name}/socket"
        listener.bind(address)
        listener.listen()
        ending, started = threading.Event(), list[subprocess.Popen[bytes]]()
        # As they are now: tests set variables and put another Python in its place, and this is no process of theirs.
        environment, python = dict(os.environ), sys.executable

        # In a thread that lives as long as the server, which ends with the thread that started it.
        def start_once_asked() -> None:
            wait([listener])
            if ending.is_set():
                return
            told = [str(listener.fileno()), str(os.getpid())]
            process = subprocess.Popen(
                [python, "-m", "tests.fakes.fork_server", *told],
                cwd=ROOT,
                env=environment,
                pass_fds=[listener.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            started.append(process)
            # Or who asks one that has died would wait for ever.
            listener.close()
            process.wait()

        waiting = threading.Thread(target=start_once_asked)
        waiting.start()
        os.environ[ADDRESS] = address
        try:
            yield
        finally:
            del os.environ[ADDRESS]
            ending.set()
            with suppress(OSError):  # closed already
                listener.shutdown(socket.SHUT_RDWR)
            for process in started:
                process.terminate()
            waiting.join()


def serve(listener: socket.socket) -> None:
    """Forks what is asked for, until it is ended."""
    running: dict[Connection, ForkProcess] = {}
    while True:
        ends = {process.sentinel: link for link, process in running.items()}
        for ready in wait([listener, *running, *ends]):
            if ready is listener:
                with suppress(EOFError, OSError):  # whoever asked is gone
                    _begin(listener, running)
            elif isinstance(ready, int):
                _end(ends[ready], running.pop(ends[ready]))
            elif isinstance(ready, Connection) and ready in running:
                # Nobody says anything more: its caller hung up.
                running[ready].kill()


def _begin(listener: socket.socket, running: dict[Connection, ForkProcess]) -> None:
    caller, _ = listener.accept()
    _, streams, _, _ = socket.recv_fds(caller, 1, 3)
    link = Connection(caller.detach())
    try:
        told = Told(*link.recv())
        named = " ".join([told.module, *told.arguments])
        child = (listener, link, *running), told, Streams(*streams)
        process = get_context("fork").Process(target=_child, args=child, name=named, daemon=True)
        process.start()
    finally:
        for stream in streams:
            os.close(stream)
    running[link] = process
    link.send(process.pid)


def _child(others: Iterable[socket.socket | Connection], told: Told, streams: Streams) -> None:
    # Also one that by itself would outlive whoever started it, where a session is killed.
    end_with(os.getppid(), signal.SIGKILL)
    for each in others:
        each.close()
    become(told, streams)


def _end(link: Connection, process: ForkProcess) -> None:
    process.join()
    with suppress(OSError), link:  # its caller hung up
        link.send(process.exitcode)
    process.close()


if __name__ == "__main__":
    end_with(int(sys.argv[2]))
    with socket.socket(fileno=int(sys.argv[1])) as listening:
        # What is imported stays, and is not looked at meanwhile.
        gc.disable()
        for module in PRELOADED:
            import_module(module)
        gc.enable()
        serve(listening)
