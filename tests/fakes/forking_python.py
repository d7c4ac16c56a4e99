"""A Python whose `-m <module>` is forked from the tests' fork server: what imports torch begins in a tenth of a second.

It is a program, for a shell, a container's command or `sys.executable`. What it starts has its arguments, environment,
directory, streams, signals and exit code, and starts others the same way; SIGKILL reaches it, SIGSTOP does not. What an
interpreter reads only as it begins is the fork server's. Other ways to call a Python than `-m` start the real one.
"""

import json
import os
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path

from tests.fakes.forked import Forked, Streams

CLIENT = Path(__file__).with_name("forking_client.py")


@contextmanager
def forking_python() -> Iterator[Path]:
    """The directory of programs `python` and `opcod`, which are there while in the block."""
    # Not a test's directory, whose name may be too long for a socket.
    with tempfile.TemporaryDirectory(prefix="opcod-python-") as name, socket.socket(socket.AF_UNIX) as listener:
        address, program = Path(name) / "socket", Path(name) / "python"
        listener.bind(str(address))
        listener.listen()
        told = f'"{sys.executable}" -IS "{CLIENT}" "{address}" "{sys.executable}" "{program}"'
        for path, first in ((program, ""), (program.with_name("opcod"), "-m opcod.main ")):
            path.write_text(f'#!/bin/sh\nexec {told} {first}"$@"\n')
            path.chmod(0o755)
        accepting = threading.Thread(target=_accept, args=(listener,))
        accepting.start()
        try:
            yield Path(name)
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join()


def _accept(listener: socket.socket) -> None:
    while True:
        try:
            caller, _ = listener.accept()
        except OSError:  # shut down
            return
        threading.Thread(target=_serve, args=(caller,), daemon=True).start()


def _serve(caller: socket.socket) -> None:
    """One process, from its start to its end or its caller's."""
    with caller:
        process = _forked(caller)
        while process.poll() is None:
            if caller in wait([caller, process.sentinel]):
                signals = caller.recv(16)
                if not signals:
                    process.kill()
                    process.wait()
                for number in signals:
                    process.send_signal(number)
        try:
            caller.sendall(str(process.returncode).encode())
        except BrokenPipeError:  # it was killed
            return


def _forked(caller: socket.socket) -> Forked:
    length, descriptors, _, _ = socket.recv_fds(caller, 4, 3)
    asked = caller.recv(int.from_bytes(length, "big"), socket.MSG_WAITALL)
    program, module, arguments, environment, directory = json.loads(asked)
    try:
        return Forked(module, arguments, environment, Streams(*descriptors), Path(directory), program)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
